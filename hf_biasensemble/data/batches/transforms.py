"""Augmentation and normalisation of whole uint8 batches on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional

from hf_biasensemble.data.geometry import centre

Draw = Callable[[Callable[[int], torch.Tensor], int], torch.Tensor]
"""`draw(make, B)`: calls `make(S)`, which draws for S samples (dimension 1), and returns the draws of B of them."""


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensor must also work where gradients are recorded
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor of these values on the device, cached because a copy in each step would make the host wait."""
    return torch.tensor(values, dtype=dtype, device=device)


def draw_for_these(make: Callable[[int], torch.Tensor], count: int) -> torch.Tensor:
    """A `Draw` for a batch that is not part of a larger one."""
    return make(count)


@dataclass(frozen=True)
class ImageTransform:
    """Turns uint8 batches (..., C, H, W) into float batches `(pixel / 255 - mean) / std`, augmented in training.

    Attributes:
        image_mean: Mean per channel, of pixels in [0, 1].
        image_std: Standard deviation per channel.
        crop_padding: Pads by this many black pixels, then crops at a random position; 0 disables it.
        horizontal_flip: Mirrors each image with probability 1/2.
        augmentation: Applied after these: `"none"`, `"affine"` ([`random_affine`]) or `"photographs"`
            ([`random_resized_crop`]).
        image_size: Size of the network's input; larger images are cropped at the centre. `None` disables this.
        color_jitter: Strength of [`random_colors`] with `"photographs"`; 0 disables it.
    """

    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    crop_padding: int = 0
    horizontal_flip: bool = False
    augmentation: str = "none"
    image_size: int | None = None
    color_jitter: float = 0.0

    @property
    def augments(self) -> bool:
        """Whether training images are augmented at all."""
        return bool(self.crop_padding or self.horizontal_flip or self.augmentation != "none")

    def __call__(self, pixels: torch.Tensor, training: bool) -> torch.Tensor:
        """Transforms a batch. In training, each image is augmented by its own draw from torch's global generator."""
        return self.normalise(self.augment(pixels) if training else pixels)

    def augment(self, pixels: torch.Tensor, draw: Draw = draw_for_these) -> torch.Tensor:
        """Augments images (B, C, H, W); with `augmentation="none"`, also (B, ..., C, H, W)."""
        if self.crop_padding or self.horizontal_flip:
            pixels = random_crop_and_flip(pixels, self.crop_padding, self.horizontal_flip, draw)
        if self.augmentation == "affine":
            return random_affine(pixels, draw=draw)
        if self.augmentation == "photographs":
            pixels = random_resized_crop(pixels, self.image_size or pixels.shape[-1], draw=draw)
            return random_colors(pixels, self.color_jitter, draw) if self.color_jitter else pixels
        return pixels

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Crops and normalises images (..., C, H, W) in [0, 255], as a published model's processor does."""
        values = self.seen(pixels).to(torch.get_default_dtype(), copy=True).div_(255)
        if any(self.image_mean):
            values.sub_(_constant(self.image_mean, values.dtype, values.device).view(-1, 1, 1))
        return values.div_(_constant(self.image_std, values.dtype, values.device).view(-1, 1, 1))

    def seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """The centre of images (..., C, H, W) that the network sees."""
        (height, width), size = pixels.shape[-2:], self.image_size
        if size is None or (height, width) == (size, size):
            return pixels
        top, left = centre(height, size), centre(width, size)
        return pixels[..., top : top + size, left : left + size]


def random_crop_and_flip(images: torch.Tensor, padding: int, flip: bool, draw: Draw = draw_for_these) -> torch.Tensor:
    """torchvision's `RandomCrop((H, W), padding)` and `RandomHorizontalFlip()` for each image (B, ..., C, H, W)."""
    (samples, *each), device = images.shape[:-3], images.device
    shape, images = images.shape, images.flatten(0, -4)
    count = len(images)
    offsets = draw(lambda number: torch.randint(2 * padding + 1, (2, number, *each), device=device), samples)
    top, left = offsets.view(2, count, 1)
    mirrored = torch.zeros_like(top, dtype=torch.bool)
    if flip:
        mirrored = draw(lambda number: torch.rand(1, number, *each, device=device), samples).view(count, 1) < 0.5
    # On a CPU, pieces that fit into its cache take a third of the time.
    piece = max(1, 2**19 // images[0].numel()) if device.type == "cpu" else count
    moved = torch.empty_like(images)
    for start in range(0, count, piece):
        part = slice(start, start + piece)
        moved[part] = _crop_and_flip(images[part], top[part], left[part], mirrored[part], padding)
    return moved.view(shape)


def _crop_and_flip(
    images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, mirrored: torch.Tensor, padding: int
) -> torch.Tensor:
    """Crops the padded images at `top` and `left` (B, 1), then mirrors them; copies whole rows of pixels at once."""
    count, channels, height, width = images.shape
    device = images.device
    padded = images.new_zeros(count, 2, channels, height + 2 * padding, width + 2 * padding)
    inside = padded[..., padding : padding + height, padding : padding + width]
    inside[:, 0] = images
    inside[:, 1] = images.flip(-1)
    left = torch.where(mirrored, 2 * padding - left, left)  # the same crop of the mirrored image
    image = 2 * torch.arange(count, device=device).view(-1, 1) + mirrored
    plane = image * channels + torch.arange(channels, device=device)
    row = plane.view(count, channels, 1) * padded.shape[-2] + (top + torch.arange(height, device=device))[:, None]
    first = row * padded.shape[-1] + left.view(count, 1, 1)
    pixels = padded.flatten()
    runs = pixels.as_strided((len(pixels) - width + 1, width), (1, 1))  # run i: `width` pixels from pixel i on
    return runs.index_select(0, first.flatten()).view(images.shape)


def random_affine(
    images: torch.Tensor,
    degrees: float = 15.0,
    zoom: float = 0.1,
    shift: float = 2 / 28,
    draw: Draw = draw_for_these,
) -> torch.Tensor:
    """Rotates each image (B, C, H, W) by up to `degrees`, zooms by up to the fraction `zoom` and shifts by up to the
    fraction `shift` of each side, all in either direction; bilinear, with black borders."""
    count, _, height, width = images.shape
    draws = draw(lambda number: torch.rand(4, number, device=images.device), count) * 2 - 1
    angle = draws[0] * math.radians(degrees)
    size = 1 + draws[1] * zoom
    cosine, sine = angle.cos() / size, angle.sin() / size
    # The grid runs from -1 to 1, so a fraction of a side doubles, and rotation must correct for the aspect ratio.
    across, down = 2 * shift * draws[2], 2 * shift * draws[3]
    matrix = torch.stack(
        [torch.stack([cosine, -sine * (height / width), across]), torch.stack([sine * (width / height), cosine, down])]
    ).permute(2, 0, 1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images.to(torch.get_default_dtype()), grid, align_corners=False)


_TRIES = 10
_SCALE = (0.4, 1.0)  # fraction of the image's area
_RATIO = (3 / 4, 4 / 3)  # width to height


def random_resized_crop(images: torch.Tensor, size: int, draw: Draw = draw_for_these) -> torch.Tensor:
    """Crops a random part of each image (B, C, H, W), resizes it to (size, size) and mirrors it with probability 1/2.

    Area and aspect ratio are drawn as in torchvision's `RandomResizedCrop`, up to ten times if the part would exceed
    the image. Resizing is bilinear without antialiasing, which is harmless for a moderate reduction (256 to 224).
    """
    count, channels, height, width = images.shape
    draws = draw(lambda number: torch.rand(2 * _TRIES + 3, number, device=images.device), count)
    area = (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * draws[:_TRIES]) * height * width
    lowest, highest = (math.log(value) for value in _RATIO)
    aspect = (lowest + (highest - lowest) * draws[_TRIES : 2 * _TRIES]).exp()
    wide, high = (area * aspect).sqrt() / width, (area / aspect).sqrt() / height  # as fractions of the sides
    fits = (wide <= 1) & (high <= 1)
    first = fits.int().argmax(dim=0, keepdim=True)
    none_fits = ~fits.any(dim=0)
    wide, high = (side.gather(0, first)[0].masked_fill(none_fits, 1) for side in (wide, high))
    left, top, mirrored = draws[2 * _TRIES :]
    # The grid runs from -1 to 1: a part of width w that starts at l is centred at 2 l + w - 1.
    across, down = 2 * left * (1 - wide) + wide - 1, 2 * top * (1 - high) + high - 1
    wide = torch.where(mirrored < 0.5, -wide, wide)
    zero = torch.zeros_like(wide)
    matrix = torch.stack([torch.stack([wide, zero, across]), torch.stack([zero, high, down])]).permute(2, 0, 1)
    grid = functional.affine_grid(matrix, [count, channels, size, size], align_corners=False)
    pixels = images.to(torch.get_default_dtype())
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def random_colors(images: torch.Tensor, strength: float, draw: Draw = draw_for_these) -> torch.Tensor:
    """Varies brightness, contrast and saturation of each image (B, 3, H, W) like torchvision's `ColorJitter`, by
    factors uniform in `[1 - strength, 1 + strength]`, with `strength` in (0, 1]."""
    draws = draw(lambda number: torch.rand(3, number, device=images.device), len(images))
    brightness, contrast, saturation = (1 + strength * (2 * draws - 1)).view(3, -1, 1, 1, 1)
    images = (images * brightness).clamp_(0, 255)
    mean = luminance(images).mean(dim=(-2, -1), keepdim=True)
    images = mean.lerp(images, contrast).clamp_(0, 255)
    return luminance(images).lerp(images, saturation).clamp_(0, 255)


def luminance(images: torch.Tensor) -> torch.Tensor:
    """Perceived brightness (B, 1, H, W) of float RGB images (B, 3, H, W)."""
    weights = _constant((0.2989, 0.587, 0.114), images.dtype, images.device)
    return torch.einsum("c,bchw->bhw", weights, images).unsqueeze(1)
