"""Decoded images in a store, named by the content of the image files; their names and times do not count."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import Any

import datasets
import numpy as np
import PIL
from PIL import features

from hf_biasensemble.data.decoding import MAX_IMAGE_PIXELS, decode_rows
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.store.array_store import StoredArray, open_or_make
from hf_biasensemble.data.store.content import content_hashes
from hf_biasensemble.internal.errors import BiasEnsembleError

FORMAT_VERSION = 4
"""Goes up when the layout of the store or what `decode_image` makes of an image changes."""


def open_or_decode(
    images: datasets.Dataset, geometry: Geometry, source: str = "", workers: int | None = None, verify: bool = False
) -> tuple[StoredArray, dict[int, str]]:
    """The store of these images in this geometry; see [`open_or_make`].

    Args:
        images (`datasets.Dataset`): One column `image`, undecoded.
        geometry (`Geometry`): What becomes of an image of any size.
        source (`str`, *optional*): What the images are, for the list of the cache and the progress bar.
        workers (`int`, *optional*): Decoding threads.
        verify (`bool`): Check all of a store that is there, and refuse it if it is damaged.

    Returns:
        The pixels uint8 (N, 3, S, S), black where an image could not be read, and the reason for each such row.

    Raises:
        `BiasEnsembleError`: As of [`open_or_make`], and if images change while they are decoded.
    """
    name = _name_of(images, geometry, source)

    def blocks(rows: range, notes: dict[Any, Any]) -> Iterator[np.ndarray]:
        return decode_rows(images, geometry, notes, workers, rows)

    def check() -> None:
        if _name_of(images, geometry, source) != name:
            raise BiasEnsembleError(
                f"{source}: expected image files that stay as they are, found that some changed while they were "
                "decoded; start again when they are complete"
            )

    shape = (len(images), 3, geometry.stored_size, geometry.stored_size)
    pixels, unreadable = open_or_make("pixels", name, shape, np.uint8, blocks, source, verify, check)
    return pixels, {int(row): reason for row, reason in unreadable.items()}


def _name_of(images: datasets.Dataset, geometry: Geometry, source: str) -> str:
    """Hash of what the pixels depend on: content and order of the files, geometry, and the code that decodes."""
    decoders = {name: features.version(name) for name in ("jpg", "jpg_2000", "webp", "avif", "libtiff")}
    shown = [geometry.stored_size, *astuple(replace(geometry, crop_pct=float(geometry.crop_pct)))]
    settings = [FORMAT_VERSION, PIL.__version__, decoders, MAX_IMAGE_PIXELS, shown, len(images)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(content_hashes(images, source).data)
    return digest.hexdigest()[:40]
