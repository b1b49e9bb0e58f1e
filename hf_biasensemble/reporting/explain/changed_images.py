"""Counterfactual images: one thing about an image changes and the rest stays, to see what a prediction depends on."""

import math
from collections.abc import Sequence

import torch

from hf_biasensemble.data.batches.transforms import luminance


def without_color(images: torch.Tensor) -> torch.Tensor:
    """Grey images (B, 3, H, W) of the same luminance, of uint8 RGB images (B, 3, H, W)."""
    return luminance(images.float()).round().to(torch.uint8).expand_as(images)


def recolored(images: torch.Tensor, thirds: int) -> torch.Tensor:
    """Hues turned by so many thirds of the colour circle: red becomes green, green blue, blue red.

    The channels are exchanged, so saturation and brightness (HSV) and every edge stay exactly. Grey pixels stay grey.

    Args:
        images (`torch.Tensor` of shape (B, 3, H, W)): uint8 RGB images.
        thirds (`int`): 1 for 120 degrees, 2 for 240.
    """
    return images.roll(thirds, dims=-3)


def with_shuffled_patches(images: torch.Tensor, patches: int = 4, seed: int = 0) -> torch.Tensor:
    """Images cut into a grid whose patches all change places: shapes are gone, colour and texture stay.

    Args:
        images (`torch.Tensor` of shape (B, 3, H, W)): uint8 images, at least `patches` pixels wide and high.
        patches (`int`, *optional*, defaults to 4): Patches per row and column, at least 2. What is left over where the
            sides are no multiple of it, at the right and at the bottom, stays where it is.
        seed (`int`, *optional*, defaults to 0): Of the order, which is the same for all images; no patch keeps its
            place.
    """
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
    """Images of which one half, inside or outside a centred ellipse, is painted over, whatever it shows.

    The ellipse has the aspect ratio of the image and half of its area.

    Args:
        images (`torch.Tensor` of shape (B, 3, H, W)): uint8 images.
        inside (`bool`): Paint over what is inside the ellipse, else what is outside.
        color (`Sequence[float]`, *optional*, defaults to black): Of the paint, channels in [0, 1].
    """
    height, width = images.shape[-2:]
    down, across = ((torch.arange(side, device=images.device) + 0.5) * 2 / side - 1 for side in (height, width))
    is_inside = across**2 + down[:, None] ** 2 < 2 / math.pi
    paint = (torch.tensor(color, device=images.device) * 255).round().to(torch.uint8)
    return torch.where(is_inside if inside else ~is_inside, paint[:, None, None], images)


def counterfactuals(images: torch.Tensor, color: Sequence[float] = (0.0, 0.0, 0.0)) -> dict[str, torch.Tensor]:
    """Every counterfactual of the images, by the name to show.

    Args:
        images (`torch.Tensor` of shape (B, 3, H, W)): uint8 RGB images, at least 4 pixels wide and high.
        color (`Sequence[float]`, *optional*, defaults to black): What masked parts are painted with. The mean that a
            network's preprocessing subtracts is least remarkable to it.
    """
    return {
        "grey": without_color(images),
        "hue +120°": recolored(images, 1),
        "hue +240°": recolored(images, 2),
        "shuffled": with_shuffled_patches(images),
        "border masked": masked(images, inside=False, color=color),
        "centre masked": masked(images, inside=True, color=color),
    }
