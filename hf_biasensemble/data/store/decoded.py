"""Decoded images in a store, identified by the content of the image files, not by their names or times."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from typing import Any

import datasets
import numpy as np
import PIL
import torch
from PIL import features

from hf_biasensemble.data.decoding import MAX_IMAGE_PIXELS, ROWS_AT_ONCE, decode_rows, image_progress
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.store.array_store import StoredArray, open_or_make
from hf_biasensemble.data.store.content import content_hashes
from hf_biasensemble.data.store.making import NotWrittenError, Store
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once

FORMAT_VERSION = 4
"""Increase it when the layout of the store or the output of `decode_image` changes."""


def decoded(
    images: datasets.Dataset, geometry: Geometry, source: str, workers: int | None, mapped: bool, verify: bool
) -> tuple[torch.Tensor | StoredArray, dict[int, str]]:
    """Returns the pixels uint8 (N, 3, S, S) of the column `image`, black for unreadable images, and the error of each
    unreadable row. See [`decode_split`] for the arguments and [`open_or_make`] for the exceptions. Also raises
    `BiasEnsembleError` if images change while they are decoded."""
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
    try:
        pixels, notes = open_or_make(Store("pixels", name, shape, np.dtype(np.uint8), blocks, source, check), verify)
        reasons = {int(row): reason for row, reason in notes.items()}
        return pixels if mapped else pixels.part(slice(None), in_memory=True), reasons
    except NotWrittenError as error:
        if mapped:
            raise
        print_once(f"{error}; until then each run decodes the images anew, into memory")
    array, reasons = np.empty(shape, dtype=np.uint8), {}
    with image_progress("Decoding", source, len(images)) as bar:
        for number, chunk in enumerate(blocks(range(len(images)), reasons)):
            array[number * ROWS_AT_ONCE :][: len(chunk)] = chunk
            bar.update(len(chunk))
    return torch.from_numpy(array), reasons


def _name_of(images: datasets.Dataset, geometry: Geometry, source: str) -> str:
    """Hash of everything the pixels depend on: content and order of the files, geometry, and decoders."""
    decoders = {name: features.version(name) for name in ("jpg", "jpg_2000", "webp", "avif", "libtiff")}
    shown = [geometry.stored_size, *astuple(replace(geometry, crop_pct=float(geometry.crop_pct)))]
    settings = [FORMAT_VERSION, PIL.__version__, decoders, MAX_IMAGE_PIXELS, shown, len(images)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(content_hashes(images, source).data)
    return digest.hexdigest()[:40]
