"""`--pixels_on device`: keeps all decoded images on the GPU, so that no batch has to be copied there."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from hf_biasensemble.data.pixels import ImageSplit, OnDevice
from hf_biasensemble.internal.errors import BiasEnsembleError

ROWS_AT_ONCE = 1024


def with_pixels_on(pixels_on: str, device: torch.device, splits: dict[str, ImageSplit]) -> dict[str, ImageSplit]:
    """Copies pixels (or features) and labels to a GPU if `--pixels_on` asks for it. Splits with the same images share
    the copy. Raises `BiasEnsembleError` if they do not fit."""
    check_room(pixels_on, device, splits)
    if pixels_on == "host" or device.type == "cpu":
        return splits
    copies = {key: _copied_to(device, pixels) for key, pixels in _stores(splits).items()}
    return {
        name: replace(split, on_device=OnDevice(copies[id(split.pixels)], split.labels.to(device)))
        for name, split in splits.items()
    }


def check_room(pixels_on: str, device: torch.device, splits: dict[str, ImageSplit]) -> None:
    """Raises `BiasEnsembleError` if the pixels belong on a device that reports too little free memory."""
    if pixels_on == "host" or device.type == "cpu":
        return
    stores = _stores(splits).values()
    needed = sum(len(pixels) * pixels.index_select(0, torch.tensor([0])).nbytes for pixels in stores)
    free = needed
    with suppress(RuntimeError, ValueError):  # some devices do not report their memory
        free, _ = torch.accelerator.get_memory_info(device)
    if needed > free:
        raise BiasEnsembleError(
            f"--pixels_on device: expected room for {needed / 1e9:.3g} GB of decoded images on {device}, found "
            f"{free / 1e9:.3g} GB free; leave the option out"
        )


def _stores(splits: dict[str, ImageSplit]) -> dict[int, Any]:
    return {id(split.pixels): split.pixels for split in splits.values()}


def _copied_to(device: torch.device, pixels: Any) -> torch.Tensor:
    """Copies all rows in pieces: they may be mapped from a file that is larger than memory."""
    pieces = torch.arange(len(pixels)).split(ROWS_AT_ONCE)
    copy = torch.empty(pixels.shape, dtype=pixels.index_select(0, pieces[0][:1]).dtype, device=device)
    for rows, piece in zip(pieces, copy.split(ROWS_AT_ONCE), strict=True):
        piece.copy_(pixels.index_select(0, rows))
    return copy
