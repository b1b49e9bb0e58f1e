"""Image files of any common kind -> RGB pixels as PIL decodes them, with several threads."""

import io
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

import datasets
import numpy as np
from datasets.utils import tqdm
from PIL import Image, ImageOps, UnidentifiedImageError

from hf_biasensemble.data.bit_depth import in_8_bits, is_deep
from hf_biasensemble.data.geometry import Geometry

MAX_IMAGE_PIXELS = 100_000_000
"""Larger images are refused, since decoding one would take gigabytes."""

ROWS_AT_ONCE = 64
"""Images of a piece; bounds the undecoded bytes in memory."""
_ROWS_PER_TASK = 8


def decode_rows(
    images: datasets.Dataset,
    geometry: Geometry,
    unreadable: dict[int, str],
    workers: int | None = None,
    rows: range | None = None,
) -> Iterator[np.ndarray]:
    """Decodes images, in order, in pieces that fit into memory.

    Args:
        images (`datasets.Dataset`): One column `image`, undecoded (`bytes` and `path`).
        geometry (`Geometry`): What becomes of an image of any size.
        unreadable (`dict[int, str]`): Filled with the reason for each row that cannot be read; its pixels are black.
        workers (`int`, *optional*): Threads; by default one per processor. The result is the same.
        rows (`range`, *optional*): Which images; by default all.

    Yields:
        uint8 (n, 3, S, S), with S the `stored_size` and n = `ROWS_AT_ONCE` but for the last piece. The
        next one is decoded meanwhile.
    """
    rows, size = range(len(images)) if rows is None else rows, geometry.stored_size

    def decode(chunk: np.ndarray, records: list, start: int, first: int) -> None:
        for place in range(first, min(first + _ROWS_PER_TASK, len(records))):
            try:
                chunk[place] = decode_image(records[place], geometry)
            except Exception as error:  # PIL raises a dozen types for broken files
                chunk[place] = 0
                unreadable[start + place] = _reason(error)

    def begin(start: int) -> tuple[np.ndarray, list[Future]]:
        records = images[start : min(start + ROWS_AT_ONCE, rows.stop)]["image"]
        chunk = np.empty((len(records), 3, size, size), dtype=np.uint8)
        firsts = range(0, len(records), _ROWS_PER_TASK)
        return chunk, [pool.submit(decode, chunk, records, start, first) for first in firsts]

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        starts = range(rows.start, rows.stop, ROWS_AT_ONCE)
        for (chunk, tasks), _ in pairwise(chain(map(begin, starts), [None])):  # type: ignore[misc]
            for task in tasks:
                task.result()
            yield chunk


def image_progress(doing: str, source: str, total: int, done: int = 0) -> tqdm:
    """A progress bar over images, which a terminal shows once it takes seconds."""
    shown = {"unit": "image", "disable": None, "delay": 2, "leave": False}
    return tqdm(total=total, initial=done, desc=f"{doing} {source}", **shown)


def decode_image(record: dict | Image.Image | None, geometry: Geometry) -> np.ndarray:
    """One undecoded image record (`bytes` or `path`) -> uint8 (3, S, S), with S the geometry's `stored_size`.

    EXIF rotation is applied, palette, grey and CMYK images are converted, images of more than 8 bits are scaled by the
    range that the file states, alpha is dropped, and of an animation the first frame is taken. The image is then
    resized as the geometry says; JPEG files are decoded in full, without the decoder's own coarser scaling.

    Raises:
        `Exception`: Of many types, if the image cannot be read or has more than `MAX_IMAGE_PIXELS` pixels.
    """
    return np.asarray(geometry.resized(upright_image(record))).transpose(2, 0, 1)


def upright_image(record: dict | Image.Image | None) -> Image.Image:
    """An undecoded image record as an RGB image of 8 bits in its own size, as [`decode_image`] reads it.

    Raises:
        `Exception`: Of many types, if the image cannot be read or has more than `MAX_IMAGE_PIXELS` pixels.
    """
    with open_image(record) as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, more than the limit of {MAX_IMAGE_PIXELS:,}")
        ImageOps.exif_transpose(image, in_place=True)
        upright: Image.Image = image
        if is_deep(upright):
            upright = in_8_bits(upright)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")  # PIL warns of a palette with transparency on its way to RGB
        if upright.mode == "RGB":
            upright.load()  # what is read after the file is closed must be there
            return upright
        return upright.convert("RGB")


def encoded_image(record: dict | None) -> bytes | None:
    """The content of a record's file, from the record or from the disk; `None` where there is none."""
    content, path = (record or {}).get("bytes"), (record or {}).get("path")
    return Path(_regular(path)).read_bytes() if content is None and path else content


def open_image(record: dict | Image.Image | None) -> Image.Image:
    """The image of a record, opened but not decoded, whatever its size up to PIL's own limit."""
    if isinstance(record, Image.Image):
        return record.copy()
    content, path = (record or {}).get("bytes"), (record or {}).get("path")
    if content is None and path is None:
        raise ValueError("no image (null)")
    if (os.path.getsize(_regular(path)) if content is None else len(content)) == 0:
        raise ValueError("empty file")
    return Image.open(str(path) if content is None else io.BytesIO(content))


def _regular(path: object) -> str:
    """The path, if it is that of a regular file: a device such as /dev/zero may have no end.

    Raises:
        `OSError`: If it is another kind of file, or none.
    """
    if not stat.S_ISREG(os.stat(str(path)).st_mode):
        raise OSError("not a regular file")
    return str(path)


def file_of(record: dict | None) -> str:
    """The name of a record's file in messages."""
    return (record or {}).get("path") or "embedded"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the limit of {MAX_IMAGE_PIXELS:,} pixels ({str(error).partition(',')[0]})"
    return " ".join(str(error).split()) or type(error).__name__
