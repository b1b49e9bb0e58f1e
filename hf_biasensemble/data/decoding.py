"""Decodes image files to RGB pixels with PIL, in several threads."""

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
"""Larger images are refused: decoding one would take gigabytes."""

ROWS_AT_ONCE = 64
"""Images decoded at a time; bounds the undecoded bytes in memory."""
_ROWS_PER_TASK = 8


def decode_rows(
    images: datasets.Dataset,
    geometry: Geometry,
    unreadable: dict[int, str],
    workers: int | None = None,
    rows: range | None = None,
) -> Iterator[np.ndarray]:
    """Decodes the column `image` in order and yields uint8 (n, 3, S, S), with n = `ROWS_AT_ONCE` except at the end.

    S is the `stored_size` of the geometry. Decodes the next images meanwhile. Unreadable images become black, and
    `unreadable` gets the reason by row.
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
    """A progress bar over images; only terminals show it, after two seconds."""
    desc = f"{doing} {source}"
    return tqdm(total=total, initial=done, desc=desc, unit="image", disable=None, delay=2, leave=False)


def decode_image(record: dict | Image.Image | None, geometry: Geometry) -> np.ndarray:
    """Decodes and resizes an image record (`bytes` or `path`) to uint8 (3, S, S), S being the `stored_size`.

    JPEG files are decoded at full size before resizing. Raises what `upright_image` raises.
    """
    return np.asarray(geometry.resized(upright_image(record))).transpose(2, 0, 1)


def upright_image(record: dict | Image.Image | None) -> Image.Image:
    """Decodes an image record to 8-bit RGB at its own size.

    Applies EXIF rotation, converts palette, grey and CMYK images, scales images of more than 8 bits by the range that
    the file declares, drops alpha, and takes the first frame of an animation. Raises exceptions of many types if the
    image cannot be read or has more than `MAX_IMAGE_PIXELS` pixels.
    """
    with open_image(record) as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, more than the limit of {MAX_IMAGE_PIXELS:,}")
        ImageOps.exif_transpose(image, in_place=True)
        upright: Image.Image = image
        if is_deep(upright):
            upright = in_8_bits(upright)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")  # avoids PIL's warning about palettes with transparency
        if upright.mode == "RGB":
            upright.load()  # before the file is closed
            return upright
        return upright.convert("RGB")


def encoded_image(record: dict | None) -> bytes | None:
    """The content of an image file, from its record or from disk; `None` without either."""
    content, path = (record or {}).get("bytes"), (record or {}).get("path")
    return Path(_regular(path)).read_bytes() if content is None and path else content


def open_image(record: dict | Image.Image | None) -> Image.Image:
    """Opens the image of a record without decoding it, up to PIL's own limit of size."""
    if isinstance(record, Image.Image):
        return record.copy()
    content, path = (record or {}).get("bytes"), (record or {}).get("path")
    if content is None and path is None:
        raise ValueError("no image (null)")
    if (os.path.getsize(_regular(path)) if content is None else len(content)) == 0:
        raise ValueError("empty file")
    return Image.open(str(path) if content is None else io.BytesIO(content))


def _regular(path: object) -> str:
    """The path; raises an `OSError` unless it is a regular file, since a device such as /dev/zero may have no end."""
    if not stat.S_ISREG(os.stat(str(path)).st_mode):
        raise OSError("not a regular file")
    return str(path)


def file_of(record: dict | None) -> str:
    """The file of a record, for messages."""
    return (record or {}).get("path") or "embedded"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the limit of {MAX_IMAGE_PIXELS:,} pixels ({str(error).partition(',')[0]})"
    return " ".join(str(error).split()) or type(error).__name__
