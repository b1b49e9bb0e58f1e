"""Resizes images of any size to squares, like timm's evaluation transform.

That transform resizes to `floor(image_size / crop_pct)` and crops the centre of `image_size`. The square before the
crop is stored, so random crops can include the surroundings of the centre.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

_LARGEST = 100_000_000  # pixels; of larger resized images, only the stored square is computed


@dataclass(frozen=True)
class Geometry:
    """How images of any size become squares.

    Attributes:
        image_size: Height and width of the network's input in pixels, at least 1.
        resize_mode: `"squash"` resizes both sides and ignores the aspect ratio; `"crop"` resizes the shorter side and
            crops the centre of the longer one.
        interpolation: Name of PIL's resampling filter in lower case.
        crop_pct: Fraction of the resized side that the network sees, in (0, 1].
    """

    image_size: int
    resize_mode: str = "squash"
    interpolation: str = "bilinear"
    crop_pct: float = 1.0

    @classmethod
    def of(cls, size: "int | Geometry") -> "Geometry":
        """Returns a geometry unchanged; converts a number of pixels to a geometry that squashes images to it."""
        return size if isinstance(size, Geometry) else cls(size)

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> "Geometry":
        """Makes a geometry from complete preprocessing options."""
        return cls(*(options[name] for name in ("image_size", "resize_mode", "interpolation", "crop_pct")))

    @property
    def stored_size(self) -> int:
        """Height and width of the stored square, in pixels."""
        return math.floor(self.image_size / self.crop_pct)

    def resized(self, image: Image.Image) -> Image.Image:
        """Resizes to the square of `stored_size`; its centre of `image_size` equals timm's evaluation transform."""
        size, method = self.stored_size, Image.Resampling[self.interpolation.upper()]
        if self.resize_mode == "squash":
            return image if image.size == (size, size) else image.resize((size, size), method)
        shorter = min(image.size)
        width, height = (int(size * side / shorter) if side != shorter else size for side in image.size)
        # The stored square has the same centre as the resized image, to the pixel.
        margin = centre(size, self.image_size)
        left, top = (centre(side, self.image_size) - margin for side in (width, height))
        if width * height > _LARGEST:
            # The whole image would take gigabytes. The part alone may differ by one grey level.
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + size) * across, (top + size) * down)
            return image.resize((size, size), method, box=box)
        if image.size != (width, height):
            image = image.resize((width, height), method)
        return image if width == height else image.crop((left, top, left + size, top + size))


def centre(length: int, size: int) -> int:
    """The start of the central `size` pixels among `length`, rounded like torchvision's `CenterCrop`."""
    return round((length - size) / 2)
