"""Counterfactual images: one property of an image is changed, to see whether a prediction depends on it."""

import math
from collections.abc import Sequence

import torch

from hf_biasensemble.data.batches.transforms import luminance


def without_color(images: torch.Tensor) -> torch.Tensor:
    """Turns uint8 RGB images (B, 3, H, W) grey, with the same luminance."""
    return luminance(images.float()).round().to(torch.uint8).expand_as(images)


def recolored(images: torch.Tensor, thirds: int) -> torch.Tensor:
    """Rotates the hue of images (B, 3, H, W) by `thirds` times 120 degrees, red to green to blue. Brightness (the
    largest channel), saturation and shapes stay; grey stays grey."""
    return images.roll(thirds, dims=-3)


def with_shuffled_patches(images: torch.Tensor, patches: int = 4, seed: int = 0) -> torch.Tensor:
    """Shuffles a `patches` x `patches` grid of images (B, 3, H, W), in the same order for all, so that every patch
    moves: colour and texture stay, shapes don't. Pixels at the right and bottom that do not fit the grid stay."""
    count, channels, *sides = images.shape
    high, wide = (side // patches for side in sides)
    shuffled = images.clone()
    grid = shuffled[..., : high * patches, : wide * patches].unflatten(-2, (patches, high)).unflatten(-1, (-1, wide))
    cells = grid.movedim(-2, -3).flatten(-4, -3)  # (B, 3, patches ** 2, high, wide)
    order = torch.randperm(patches**2, generator=torch.Generator().manual_seed(seed)).to(images.device)
    moved = torch.empty_like(cells)
    moved[:, :, order.roll(1)] = cells[:, :, order]
    grid.copy_(moved.unflatten(2, (patches, patches)).movedim(-3, -2))
    return shuffled


def masked(images: torch.Tensor, inside: bool, color: Sequence[float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """Paints uint8 images (B, 3, H, W) with `color`, channels in [0, 1], inside or outside a centred ellipse with the
    aspect ratio and half the area of the image."""
    height, width = images.shape[-2:]
    down, across = ((torch.arange(side, device=images.device) + 0.5) * 2 / side - 1 for side in (height, width))
    is_inside = across**2 + down[:, None] ** 2 < 2 / math.pi
    paint = (torch.tensor(color, device=images.device) * 255).round().to(torch.uint8)
    return torch.where(is_inside if inside else ~is_inside, paint[:, None, None], images)


def counterfactuals(images: torch.Tensor, color: Sequence[float] = (0.0, 0.0, 0.0)) -> dict[str, torch.Tensor]:
    """All counterfactuals of uint8 RGB images (B, 3, H, W) of at least 4 x 4 pixels, by the name to show. The best
    `color` for masks is the mean that the network's preprocessing subtracts."""
    return {
        "grey": without_color(images),
        "hue +120°": recolored(images, 1),
        "hue +240°": recolored(images, 2),
        "shuffled": with_shuffled_patches(images),
        "border masked": masked(images, inside=False, color=color),
        "centre masked": masked(images, inside=True, color=color),
    }
