"""Grey images of more than 8 bits, or of floats -> 8 bits, by the range that the file states.

The values in an image never decide, since all images of a dataset must be scaled alike, dark ones included.
"""

import numpy as np
from PIL import Image

_FULL_16_BITS = {"PNG", "PPM", "JPEG2000"}
"""Formats of which PIL gives grey values of any depth above 8 bits as 0 to 65535."""

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITEST = (341, 281)  # SMaxSampleValue, MaxSampleValue
_BLACKEST = (340, 280)
_UNSIGNED = 1
_TO_DO = "save it with 8 or 16 bits"
_STATED = {2**bits - 1 for bits in range(1, 33)}
"""What a tag may call white: 1, or all that fits into so many bits."""


def is_deep(image: Image.Image) -> bool:
    """Whether PIL holds the image in more than 8 bits, which it would cut off and not scale."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def in_8_bits(image: Image.Image) -> Image.Image:
    """A deep image as grey of 8 bits: 0 is black, and what the file states to be the largest value is white.

    Raises:
        `ValueError`: If the file does not state it, or has values outside.
    """
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    white = _white(image, tags)
    values = np.asarray(image)
    if image.mode == "I" and white > np.iinfo(np.int32).max:
        values = values.view(np.uint32)  # as which the file has them
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= white):  # also when they are not numbers
        raise ValueError(f"values from {lowest:g} to {highest:g} in a file that states 0 to {white:g}; {_TO_DO}")
    if image.mode == "F" or white < 255:
        grey = np.rint(values * (255 / white)).astype(np.uint8)
    else:
        grey = (values // ((white + 1) // 256)).astype(np.uint8)  # the highest 8 bits, as PIL has it in colour
    # A file may say that 0 is white. PIL inverts such images if they have 8 bits only.
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)


def _white(image: Image.Image, tags: dict) -> int:
    """The value that is white."""
    if image.mode != "F" and image.format in _FULL_16_BITS:
        return 65535
    white = next((_number(tags[tag]) for tag in _WHITEST if tag in tags), None)
    black = next((_number(tags[tag]) for tag in _BLACKEST if tag in tags), 0)
    # Some programs write what an image happens to contain, which differs from image to image.
    if white is not None and white in _STATED and black == 0:
        return int(white)
    bits = int(_number(tags.get(_BITS, 0)))
    if image.mode != "F" and bits <= 16 and _number(tags.get(_SAMPLE_FORMAT, _UNSIGNED)) == _UNSIGNED and bits:
        return 2**bits - 1
    kind = "float values" if image.mode == "F" else f"{bits}-bit values" if bits else "deep values"
    tip = ", or state its range, such as 0 and 255, in the tags SMinSampleValue and SMaxSampleValue" if tags else ""
    raise ValueError(f"{kind} of which the file does not state what is white; {_TO_DO}{tip}")


def _number(value: float | tuple) -> float:
    """The first value of a tag."""
    return float(value[0] if isinstance(value, tuple) else value)
