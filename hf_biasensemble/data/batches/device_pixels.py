"""`--pixels_on device`: decoded images on the device that computes, so that of a batch only its rows are copied."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from hf_biasensemble.data.pixels import ImageSplit, OnDevice
from hf_biasensemble.internal.errors import BiasEnsembleError

ROWS_AT_ONCE = 1024
"""Images that are brought to the device together."""


def with_pixels_on(pixels_on: str, device: torch.device, splits: dict[str, ImageSplit]) -> dict[str, ImageSplit]:
    """The splits with their pixels, or features in their place, and labels also where `--pixels_on` says.

    Splits cut from the same images share them there too. A processor has them already, whatever the option says.

    Raises:
        `BiasEnsembleError`: If the device has no room for them.
    """
    check_room(pixels_on, device, splits)
    if pixels_on == "host" or device.type == "cpu":
        return splits
    there = {key: _brought_to(device, pixels) for key, pixels in _stores(splits).items()}
    return {
        name: replace(split, on_device=OnDevice(there[id(split.pixels)], split.labels.to(device)))
        for name, split in splits.items()
    }


def check_room(pixels_on: str, device: torch.device, splits: dict[str, ImageSplit]) -> None:
    """Raises `BiasEnsembleError` if pixels are to be on a device that says that it has no room for them."""
    if pixels_on == "host" or device.type == "cpu":
        return
    stores = _stores(splits).values()
    needed = sum(len(pixels) * pixels.index_select(0, torch.tensor([0])).nbytes for pixels in stores)
    free = needed
    with suppress(RuntimeError, ValueError):  # not every kind of device tells
        free, _ = torch.accelerator.get_memory_info(device)
    if needed > free:
        raise BiasEnsembleError(
            f"--pixels_on device: expected room for {needed / 1e9:.3g} GB of decoded images on {device}, found "
            f"{free / 1e9:.3g} GB free; leave the option out"
        )


def _stores(splits: dict[str, ImageSplit]) -> dict[int, Any]:
    """What holds pixels of the splits, each once."""
    return {id(split.pixels): split.pixels for split in splits.values()}


def _brought_to(device: torch.device, pixels: Any) -> torch.Tensor:
    """The pixels of all rows, a part at a time, since they may be mapped from a file that is larger than memory."""
    parts = torch.arange(len(pixels)).split(ROWS_AT_ONCE)
    there = torch.empty(pixels.shape, dtype=pixels.index_select(0, parts[0][:1]).dtype, device=device)
    for rows, part in zip(parts, there.split(ROWS_AT_ONCE), strict=True):
        part.copy_(pixels.index_select(0, rows))
    return there
