"""Converts grey images of more than 8 bits, or of floats, to 8 bits, by the range that the file declares.

The range does not depend on the pixels: all images of a dataset must be scaled alike, including dark ones.
"""

import numpy as np
from PIL import Image

_FULL_16_BITS = {"PNG", "PPM", "JPEG2000"}
"""Formats whose grey values above 8 bits PIL scales to 0..65535."""

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITEST = (341, 281)  # SMaxSampleValue, MaxSampleValue
_BLACKEST = (340, 280)
_UNSIGNED = 1
_TO_DO = "save it with 8 or 16 bits"
_STATED = {2**bits - 1 for bits in range(1, 33)}
"""The maxima that a tag may declare: those of a whole number of bits."""


def is_deep(image: Image.Image) -> bool:
    """Whether PIL stores the image in more than 8 bits, which its own conversion would clip instead of scale."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def in_8_bits(image: Image.Image) -> Image.Image:
    """Scales a deep image to 8-bit grey, from 0 to the maximum that the file declares.

    Raises a `ValueError` if the file declares no maximum, or has values outside the range.
    """
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    white = _white(image, tags)
    values = np.asarray(image)
    if image.mode == "I" and white > np.iinfo(np.int32).max:
        values = values.view(np.uint32)  # as in the file
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= white):  # false for NaN
        raise ValueError(f"values from {lowest:g} to {highest:g} in a file that states 0 to {white:g}; {_TO_DO}")
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
    white = next((_number(tags[tag]) for tag in _WHITEST if tag in tags), None)
    black = next((_number(tags[tag]) for tag in _BLACKEST if tag in tags), 0)
    # Some programs write the range of the pixels, which differs between images.
    if white is not None and white in _STATED and black == 0:
        return int(white)
    bits = int(_number(tags.get(_BITS, 0)))
    if image.mode != "F" and bits <= 16 and _number(tags.get(_SAMPLE_FORMAT, _UNSIGNED)) == _UNSIGNED and bits:
        return 2**bits - 1
    kind = "float values" if image.mode == "F" else f"{bits}-bit values" if bits else "deep values"
    tip = ", or state its range, such as 0 and 255, in the tags SMinSampleValue and SMaxSampleValue" if tags else ""
    raise ValueError(f"{kind} of which the file does not state what is white; {_TO_DO}{tip}")


def _number(value: float | tuple) -> float:
    """The value of a tag, or its first one."""
    return float(value[0] if isinstance(value, tuple) else value)
