"""How an image of any size becomes a square: what is stored of it, and which part of that a network sees.

The same as timm's evaluation transform: resized to `floor(image_size / crop_pct)`, then the centre of `image_size`.
What is stored is a square of the resized size, so that random crops can see what lies around the centre.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

_LARGEST = 100_000_000  # pixels of a resized image; a larger one is computed in part


@dataclass(frozen=True)
class Geometry:
    """From an image of any size to the square that a network sees.

    Attributes:
        image_size: Height and width, in pixels, of what the network sees, at least 1.
        resize_mode: `"squash"`: both sides are resized, whatever the aspect ratio; `"crop"`: the shorter side is, and
            what the longer one has beyond the square is cut off on both ends.
        interpolation: Of resizing, as PIL names it, in small letters.
        crop_pct: Share of the resized side that the network sees, in (0, 1].
    """

    image_size: int
    resize_mode: str = "squash"
    interpolation: str = "bilinear"
    crop_pct: float = 1.0

    @classmethod
    def of(cls, size: "int | Geometry") -> "Geometry":
        """A geometry as it is; a number of pixels as the height and width that images are squashed to."""
        return size if isinstance(size, Geometry) else cls(size)

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> "Geometry":
        """By settled options of preprocessing."""
        return cls(*(options[name] for name in ("image_size", "resize_mode", "interpolation", "crop_pct")))

    @property
    def stored_size(self) -> int:
        """Height and width of what is stored, in pixels."""
        return math.floor(self.image_size / self.crop_pct)

    def resized(self, image: Image.Image) -> Image.Image:
        """The square of `stored_size` whose centre of `image_size` is what timm's evaluation transform gives."""
        size, method = self.stored_size, Image.Resampling[self.interpolation.upper()]
        if self.resize_mode == "squash":
            return image if image.size == (size, size) else image.resize((size, size), method)
        shorter = min(image.size)
        width, height = (int(size * side / shorter) if side != shorter else size for side in image.size)
        left, top = (self._first_of(side) for side in (width, height))
        if width * height > _LARGEST:
            # PIL would need gigabytes for the whole. Of the part alone it can be a grey level off.
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + size) * across, (top + size) * down)
            return image.resize((size, size), method, box=box)
        if image.size != (width, height):
            image = image.resize((width, height), method)
        return image if width == height else image.crop((left, top, left + size, top + size))

    def _first_of(self, side: int) -> int:
        """Where the stored square starts on a side, so that its own centre is the centre of the side."""
        return centre(side, self.image_size) - centre(self.stored_size, self.image_size)


def centre(length: int, size: int) -> int:
    """Where the centre of `size` pixels starts among `length` pixels, rounded as torchvision's `CenterCrop` does."""
    return round((length - size) / 2)
