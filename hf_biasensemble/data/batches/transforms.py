"""What happens to a whole uint8 batch on the device: augmentation while training, then normalisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional

from hf_biasensemble.data.geometry import centre

Draw = Callable[[Callable[[int], torch.Tensor], int], torch.Tensor]
"""`draw(make, B)`: what `make(S)` drew for S samples (dimension 1), of it the B that are asked for."""


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # whoever asks first, others may need gradients
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers as a tensor on the device, copied there once: a copy in each step would make the host wait."""
    return torch.tensor(values, dtype=dtype, device=device)


def draw_for_these(make: Callable[[int], torch.Tensor], count: int) -> torch.Tensor:
    """Draws for the images at hand and no others."""
    return make(count)


@dataclass(frozen=True)
class ImageTransform:
    """uint8 batch (..., C, H, W) -> float batch `(pixel / 255 - mean) / std`.

    Attributes:
        image_mean: Mean per channel, of pixels in [0, 1].
        image_std: Standard deviation per channel.
        crop_padding: While training, pad by this many black pixels and crop back at a random place; 0 for none.
        horizontal_flip: While training, mirror each image with probability 1/2.
        augmentation: While training, after these: `"none"`, `"affine"` for [`random_affine`], or `"photographs"` for
            [`random_resized_crop`].
        image_size: Height and width of what the network sees: the centre of larger images. `None`: all of them.
        color_jitter: With `"photographs"`, how far [`random_colors`] goes; 0: not at all.
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
        """Whether a training image is not always the same."""
        return bool(self.crop_padding or self.horizontal_flip or self.augmentation != "none")

    def __call__(self, pixels: torch.Tensor, training: bool) -> torch.Tensor:
        """Transforms a batch; each image has its own random draw from torch's global generator."""
        return self.normalise(self.augment(pixels) if training else pixels)

    def augment(self, pixels: torch.Tensor, draw: Draw = draw_for_these) -> torch.Tensor:
        """The random part, on uint8 images (B, ..., C, H, W); only "none" takes more than (B, C, H, W)."""
        if self.crop_padding or self.horizontal_flip:
            pixels = random_crop_and_flip(pixels, self.crop_padding, self.horizontal_flip, draw)
        if self.augmentation == "affine":
            return random_affine(pixels, draw=draw)
        if self.augmentation == "photographs":
            pixels = random_resized_crop(pixels, self.image_size or pixels.shape[-1], draw=draw)
            return random_colors(pixels, self.color_jitter, draw) if self.color_jitter else pixels
        return pixels

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """The part that a published model's processor repeats, on images (..., C, H, W) in [0, 255]."""
        values = self.seen(pixels).to(torch.get_default_dtype(), copy=True).div_(255)
        if any(self.image_mean):
            values.sub_(_constant(self.image_mean, values.dtype, values.device).view(-1, 1, 1))
        return values.div_(_constant(self.image_std, values.dtype, values.device).view(-1, 1, 1))

    def seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """The centre that the network sees, of images (..., C, H, W)."""
        (height, width), size = pixels.shape[-2:], self.image_size
        if size is None or (height, width) == (size, size):
            return pixels
        top, left = centre(height, size), centre(width, size)
        return pixels[..., top : top + size, left : left + size]


def random_crop_and_flip(images: torch.Tensor, padding: int, flip: bool, draw: Draw = draw_for_these) -> torch.Tensor:
    """Each image (B, ..., C, H, W) shifted by up to `padding` pixels, black where nothing was, and perhaps mirrored.

    The same as torchvision's `RandomCrop((H, W), padding)` and `RandomHorizontalFlip()` on each image by itself.
    """
    (samples, *each), device = images.shape[:-3], images.device
    shape, images = images.shape, images.flatten(0, -4)
    count = len(images)
    offsets = draw(lambda number: torch.randint(2 * padding + 1, (2, number, *each), device=device), samples)
    top, left = offsets.view(2, count, 1)
    mirrored = torch.zeros_like(top, dtype=torch.bool)
    if flip:
        mirrored = draw(lambda number: torch.rand(1, number, *each, device=device), samples).view(count, 1) < 0.5
    # On a processor, pieces that stay in its cache take a third of the time.
    piece = max(1, 2**19 // images[0].numel()) if device.type == "cpu" else count
    moved = torch.empty_like(images)
    for start in range(0, count, piece):
        part = slice(start, start + piece)
        moved[part] = _crop_and_flip(images[part], top[part], left[part], mirrored[part], padding)
    return moved.view(shape)


def _crop_and_flip(
    images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, mirrored: torch.Tensor, padding: int
) -> torch.Tensor:
    """Crops at `top` and `left` (B, 1) of the padded images, then mirrors, copying whole rows of pixels at once."""
    count, channels, height, width = images.shape
    device = images.device
    padded = images.new_zeros(count, 2, channels, height + 2 * padding, width + 2 * padding)
    inside = padded[..., padding : padding + height, padding : padding + width]
    inside[:, 0] = images
    inside[:, 1] = images.flip(-1)
    left = torch.where(mirrored, 2 * padding - left, left)  # the same crop, seen in the mirror
    image = 2 * torch.arange(count, device=device).view(-1, 1) + mirrored
    plane = image * channels + torch.arange(channels, device=device)
    row = plane.view(count, channels, 1) * padded.shape[-2] + (top + torch.arange(height, device=device))[:, None]
    first = row * padded.shape[-1] + left.view(count, 1, 1)
    pixels = padded.flatten()
    runs = pixels.as_strided((len(pixels) - width + 1, width), (1, 1))  # run i: the `width` pixels from pixel i on
    return runs.index_select(0, first.flatten()).view(images.shape)


def random_affine(
    images: torch.Tensor,
    degrees: float = 15.0,
    zoom: float = 0.1,
    shift: float = 2 / 28,
    draw: Draw = draw_for_these,
) -> torch.Tensor:
    """Rotates, zooms and shifts each image (B, C, H, W) by its own draw, bilinearly; black comes in from outside.

    Rotation is at most `degrees` either way, the size changes by at most the fraction `zoom`, and the shift is at most
    the fraction `shift` of each side.
    """
    count, _, height, width = images.shape
    draws = draw(lambda number: torch.rand(4, number, device=images.device), count) * 2 - 1
    angle = draws[0] * math.radians(degrees)
    size = 1 + draws[1] * zoom
    cosine, sine = angle.cos() / size, angle.sin() / size
    # The grid runs from -1 to 1 in both directions: a share of the side is twice that there, and a turn of an image
    # that is not square must not squeeze it.
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
    """A part of each image (B, C, H, W) by its own draw, resized to (size, size) and mirrored with probability 1/2.

    Area and aspect ratio are drawn as in torchvision's `RandomResizedCrop`: again, up to ten times, if the part would
    be larger than the image. Resizing is bilinear and not antialiased, which is harmless as long as a part has at most
    about one and a half times the pixels of the result, as when 256 become 224.
    """
    count, channels, height, width = images.shape
    draws = draw(lambda number: torch.rand(2 * _TRIES + 3, number, device=images.device), count)
    area = (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * draws[:_TRIES]) * height * width
    lowest, highest = (math.log(value) for value in _RATIO)
    aspect = (lowest + (highest - lowest) * draws[_TRIES : 2 * _TRIES]).exp()
    wide, high = (area * aspect).sqrt() / width, (area / aspect).sqrt() / height  # as shares of the sides
    fits = (wide <= 1) & (high <= 1)
    first = fits.int().argmax(dim=0, keepdim=True)
    none_fits = ~fits.any(dim=0)
    wide, high = (side.gather(0, first)[0].masked_fill(none_fits, 1) for side in (wide, high))
    left, top, mirrored = draws[2 * _TRIES :]
    # The grid runs from -1 to 1: a part of share w that starts at l has its middle at 2 l + w - 1.
    across, down = 2 * left * (1 - wide) + wide - 1, 2 * top * (1 - high) + high - 1
    wide = torch.where(mirrored < 0.5, -wide, wide)
    zero = torch.zeros_like(wide)
    matrix = torch.stack([torch.stack([wide, zero, across]), torch.stack([zero, high, down])]).permute(2, 0, 1)
    grid = functional.affine_grid(matrix, [count, channels, size, size], align_corners=False)
    pixels = images.to(torch.get_default_dtype())
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def random_colors(images: torch.Tensor, strength: float, draw: Draw = draw_for_these) -> torch.Tensor:
    """Brightness, contrast and saturation of each image (B, 3, H, W) times a draw of its own, uniform in
    `[1 - strength, 1 + strength]`, as in torchvision's `ColorJitter`; `strength` is above 0 and at most 1.
    """
    draws = draw(lambda number: torch.rand(3, number, device=images.device), len(images))
    brightness, contrast, saturation = (1 + strength * (2 * draws - 1)).view(3, -1, 1, 1, 1)
    images = (images * brightness).clamp_(0, 255)
    mean = luminance(images).mean(dim=(-2, -1), keepdim=True)
    images = mean.lerp(images, contrast).clamp_(0, 255)
    return luminance(images).lerp(images, saturation).clamp_(0, 255)


def luminance(images: torch.Tensor) -> torch.Tensor:
    """Brightness (B, 1, H, W) as the eye sees it, of RGB images (B, 3, H, W), float."""
    weights = _constant((0.2989, 0.587, 0.114), images.dtype, images.device)
    return torch.einsum("c,bchw->bhw", weights, images).unsqueeze(1)
