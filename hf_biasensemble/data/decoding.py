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

from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.internal.errors import reason_of

MAX_IMAGE_PIXELS = 100_000_000
"""Larger images are refused: decoding one would take gigabytes."""

ROWS_AT_ONCE = 64
"""Images decoded at a time; bounds the undecoded bytes in memory."""
_ROWS_PER_TASK = 8

_FULL_16_BITS = {"PNG", "PPM", "JPEG2000"}
"""Formats whose grey values above 8 bits PIL scales to 0..65535."""

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITEST = (341, 281)  # SMaxSampleValue, MaxSampleValue
_BLACKEST = (340, 280)
_ADVICE = "save it with 8 or 16 bits"
_STATED = {2**bits - 1 for bits in range(1, 33)}
"""The maxima that a tag may declare: those of a whole number of bits."""


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


def image_progress(doing: str, source: str, total: int) -> tqdm:
    """A progress bar over images; only terminals show it, after two seconds."""
    return tqdm(total=total, desc=f"{doing} {source}", unit="image", disable=None, delay=2, leave=False)


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
        if image.mode in ("I", "F") or image.mode.startswith("I;"):  # PIL would clip these instead of scaling them
            image = _in_8_bits(image)
        if "transparency" in image.info:
            image = image.convert("RGBA")  # avoids PIL's warning about palettes with transparency
        if image.mode == "RGB":
            image.load()  # before the file is closed
            return image
        return image.convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey values of more than 8 bits, or floats, to 8 bits, from 0 to the maximum that the file declares.

    The range does not depend on the pixels: all images of a dataset must be scaled alike, including dark ones. Raises
    a `ValueError` if the file declares no maximum, or has values outside the range.
    """
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    white = _white(image, tags)
    values = np.asarray(image)
    if image.mode == "I" and white > np.iinfo(np.int32).max:
        values = values.view(np.uint32)  # as in the file
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= white):  # false for NaN
        raise ValueError(f"values from {lowest:g} to {highest:g} in a file that states 0 to {white:g}; {_ADVICE}")
    if image.mode == "F" or white < 255:
        grey = np.rint(values * (255 / white)).astype(np.uint8)
    else:
        grey = (values // ((white + 1) // 256)).astype(np.uint8)  # the highest 8 bits, as PIL does for colour
    # In some files, 0 is white. PIL inverts those itself only at 8 bits.
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)


def _white(image: Image.Image, tags: dict) -> int:
    """The value that is white."""
    if image.mode != "F" and image.format in _FULL_16_BITS:
        return 65535
    white = next((_number(tags[tag]) for tag in _WHITEST if tag in tags), 0)
    black = next((_number(tags[tag]) for tag in _BLACKEST if tag in tags), 0)
    # Some programs write the range of the pixels, which differs between images.
    if white in _STATED and black == 0:
        return int(white)
    bits = int(_number(tags.get(_BITS, 0)))
    is_unsigned = _number(tags.get(_SAMPLE_FORMAT, 1)) == 1
    if image.mode != "F" and is_unsigned and 0 < bits <= 16:
        return 2**bits - 1
    kind = "float values" if image.mode == "F" else f"{bits}-bit values" if bits else "deep values"
    tip = ", or state its range, such as 0 and 255, in the tags SMinSampleValue and SMaxSampleValue" if tags else ""
    raise ValueError(f"{kind} in a file that states no maximum; {_ADVICE}{tip}")


def _number(value: float | tuple) -> float:
    """The value of a tag, or its first one."""
    return float(value[0] if isinstance(value, tuple) else value)


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
    return reason_of(error)
