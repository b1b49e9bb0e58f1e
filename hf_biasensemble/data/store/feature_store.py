"""Features of a frozen backbone on disk: each image goes through it once, for all runs on these images and weights.

A store is a plain `.npy` file, float16 (N, 1 + V, D). Its name is a hash of all that the features depend on: decoded
images, weights, preprocessing, views and seed; so features of anything else are never found under it.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.utils import tqdm
from torch import nn

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.store.cache import cache_folder, sole_maker
from hf_biasensemble.data.store.pixel_store import MappedPixels, digest_of_pixels
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import UNFINISHED_SUFFIX
from hf_biasensemble.internal.seeding import build_with_seed, derived_seed

FORMAT_VERSION = 1
STORE_SUFFIX = ".npy"
PROGRESS_SUFFIX = ".json"  # beside an unfinished store: how many rows it has
ROWS_AT_ONCE = 64
"""Images that are encoded together. Random views are drawn by such blocks, so it is part of the format."""
VALUES_AT_ONCE = 2**19
"""Input values that go through the backbone together on a processor, three images of 224 pixels. The outputs of its
layers then stay below 32 MB, beyond which the C library returns memory to the system at once: with 64 images, touching
fresh pages took more time than the computation."""


def feature_folder() -> Path:
    """Where the feature stores are."""
    return cache_folder() / "features"


def name_of_features(
    pixels: torch.Tensor | MappedPixels,
    encoder: nn.Module,
    architecture: str,
    transform: ImageTransform,
    views: int,
    seed: int,
) -> str:
    """Hash of all that the features depend on."""
    digest = hashlib.sha256(digest_of_pixels(pixels).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    settings = {
        "format": FORMAT_VERSION,
        "views": views,
        "seed": seed if views else None,
        "architecture": architecture,
    }
    digest.update(json.dumps([settings, vars(transform)], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]


def open_or_encode(
    pixels: torch.Tensor | MappedPixels,
    encoder: nn.Module,
    architecture: str,
    transform: ImageTransform,
    views: int,
    seed: int,
    width: int,
    in_memory: Callable[[int], bool],
    title: str = "",
) -> torch.Tensor:
    """The features of these images, encoded first if they are not there.

    Of several processes, one encodes and the others wait, however long. One that was killed is taken up where it was.

    Args:
        pixels (uint8 (N, 3, S, S)): All images of a split as loaded.
        encoder (`nn.Module`): Gives features (B, D) of normalised images; on the device that is to do it.
        architecture (`str`): Its name and arguments.
        transform (`ImageTransform`): From pixels to its input; augments the views.
        views (`int`): Augmented views of each image, 0 or more.
        seed (`int`): Of the augmented views.
        width (`int`): D.
        in_memory (`Callable`): Whether so many bytes are to be read into memory, not mapped.
        title (`str`, *optional*): What the images are, for the progress bar.

    Returns:
        float16 (N, 1 + V, D).

    Raises:
        `BiasEnsembleError`: If the disk has no room.
    """
    name = name_of_features(pixels, encoder, architecture, transform, views, seed)
    file, shape = feature_folder() / (name + STORE_SUFFIX), (len(pixels), 1 + views, width)
    with sole_maker(file, f"{title}: waiting for another process that encodes the same images"):
        if not _is_whole(file, shape):
            _encode(file, shape, pixels, encoder, transform, seed, title)
    # Read-only: a map that could be written to is counted as memory, which a large file exceeds.
    values: np.ndarray = np.load(file, mmap_mode=None if in_memory(2 * int(np.prod(shape))) else "r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
        return torch.from_numpy(values)


def _is_whole(file: Path, shape: tuple[int, ...]) -> bool:
    with suppress(OSError, ValueError):
        found = np.load(file, mmap_mode="r")
        return found.shape == shape and found.dtype == np.float16
    return False


@torch.inference_mode()
def _encode(
    file: Path,
    shape: tuple[int, ...],
    pixels: torch.Tensor | MappedPixels,
    encoder: nn.Module,
    transform: ImageTransform,
    seed: int,
    title: str,
) -> None:
    unfinished, progress = file.with_suffix(UNFINISHED_SUFFIX), file.with_suffix(PROGRESS_SUFFIX)
    device = next(encoder.parameters()).device
    done = 0
    with suppress(OSError, ValueError, KeyError):
        if _is_whole(unfinished, shape):
            done = json.loads(progress.read_text(encoding="utf-8"))["rows"]
    mode: Any = "r+" if done else "w+"
    try:
        values = np.lib.format.open_memmap(unfinished, mode=mode, dtype=np.float16, shape=shape)
        # A full disk shows here, not as a bus error when a page of the map is written.
        with open(unfinished, "rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, values.offset + values.nbytes)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        needed = 2 * int(np.prod(shape)) / 1e9
        raise BiasEnsembleError(
            f"expected {needed:.2g} GB for the features of {title or 'the images'} in {file.parent}, which could not "
            f"be written ({error.strerror}); set HF_DATASETS_CACHE to another disk, clear with: hf-biasensemble cache "
            "--clear, or lower --feature_views"
        ) from error
    was_training = encoder.training
    encoder.eval().to(memory_format=torch.channels_last)  # two to three times as fast on a processor

    def encode(images: torch.Tensor) -> torch.Tensor:
        together = max(1, VALUES_AT_ONCE // images[0].numel()) if device.type == "cpu" else len(images)
        parts = images.split(together)
        return torch.cat([encoder(part.contiguous(memory_format=torch.channels_last)) for part in parts])

    bar = tqdm(
        total=len(pixels), initial=done, desc=f"Encoding {title}", unit="image", disable=None, delay=2, leave=False
    )
    with bar:
        for start in range(done, len(pixels), ROWS_AT_ONCE):
            rows = torch.arange(start, min(start + ROWS_AT_ONCE, len(pixels)))
            images = pixels.index_select(0, rows).to(device)
            encoded = [encode(transform(images, training=False))]
            for view in range(1, shape[1]):
                block = derived_seed(seed, "feature views", start * shape[1] + view)
                encoded.append(encode(build_with_seed(block, partial(transform, images, training=True))))
            values[start : start + len(rows)] = torch.stack(encoded, dim=1).to(torch.float16).cpu().numpy()
            values.flush()
            progress.write_text(json.dumps({"rows": start + len(rows)}), encoding="utf-8")
            bar.update(len(rows))
    encoder.train(was_training)
    del values
    os.replace(unfinished, file)
    progress.unlink(missing_ok=True)
