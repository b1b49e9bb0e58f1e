"""What happens to a whole uint8 batch on the device: augmentation while training, then normalisation."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageTransform:
    """uint8 batch (..., C, H, W) -> float batch `(pixel / 255 - mean) / std`.

    Attributes:
        image_mean: Mean per channel, of pixels in [0, 1].
        image_std: Standard deviation per channel.
        crop_padding: While training, pad by this many black pixels and crop back at a random place; 0 for none.
        horizontal_flip: While training, mirror each image with probability 1/2.
    """

    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    crop_padding: int = 0
    horizontal_flip: bool = False

    def __call__(self, pixels: torch.Tensor, training: bool) -> torch.Tensor:
        """Transforms a batch; each image has its own random draw from torch's global generator."""
        if training and (self.crop_padding or self.horizontal_flip):
            images = pixels.flatten(0, -4)
            pixels = random_crop_and_flip(images, self.crop_padding, self.horizontal_flip).view(pixels.shape)
        values = pixels.to(torch.get_default_dtype()).div_(255)
        if any(self.image_mean):
            values.sub_(values.new_tensor(self.image_mean).view(-1, 1, 1))
        return values.div_(values.new_tensor(self.image_std).view(-1, 1, 1))


def random_crop_and_flip(images: torch.Tensor, padding: int, flip: bool) -> torch.Tensor:
    """Each image (B, C, H, W) shifted by up to `padding` pixels, black where nothing was, and perhaps mirrored."""
    count, channels, height, width = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, count, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = left + columns
    sample = torch.arange(count, device=device)
    return padded[
        sample.view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        rows.view(count, 1, height, 1),
        columns.view(count, 1, 1, width),
    ]
