"""Counterfactual images, in which one property is changed, and the predictions that change with it; no bias labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from transformers import PreTrainedModel

from hf_biasensemble.data.batches.transforms import ImageTransform, luminance
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.evaluation.classifier import finite, predict_classes, to_classes_of
from hf_biasensemble.reporting.figures.counterfactuals import ORIGINAL, counterfactual_panel

Classifier = tuple[PreTrainedModel, ImageTransform, ImageSplit]
"""A model, its preprocessing, and the images decoded for it."""


@dataclass(frozen=True)
class ShownImages:
    """Positions (n,) of a few images in their split, and a title that tells why they were chosen."""

    positions: np.ndarray
    title: str


def images_to_show(classifiers: Mapping[str, Classifier], num_images: int = 8, batch_size: int = 512) -> ShownImages:
    """At most `num_images` images that the last classifier gets right and all others get wrong, taken from each class
    in turn; only bias-conflicting ones if known. The splits of all classifiers hold the same images."""
    *_, (last, (_, _, split)) = classifiers.items()
    measured = split.measured_by()
    labels, conflicting = measured["labels"], measured["is_conflicting"]
    kind = "images" if conflicting is None else "bias-conflicting images"
    candidates = np.ones(len(labels), dtype=bool) if conflicting is None else conflicting
    wanted, answers = candidates, []
    for name, (model, transform, images) in classifiers.items():
        is_right = predict_classes(model, images, transform, batch_size) == labels
        wanted = wanted & (is_right if name == last else ~is_right)
        answers.append(f"{name} {'right' if name == last else 'wrong'}")
    title = f"{wanted.sum():,} of {candidates.sum():,} {kind}: {' and '.join(answers)}"
    return ShownImages(classes_in_turn(np.flatnonzero(wanted), labels)[:num_images], title)


def classes_in_turn(candidates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Reorders candidates so that the first of every class comes before the second of any."""
    classes = pd.Series(labels[candidates])
    return candidates[np.lexsort((classes, classes.groupby(classes).cumcount()))]


def measure_reliance(
    classifiers: Mapping[str, Classifier], num_images: int = 500, batch_size: int = 64
) -> pd.DataFrame:
    """Counts predictions that change under each of the [`counterfactuals`], on at most `num_images` random images.

    Returns a row per `model` and `counterfactual`: `images`, how many `changed`, that `fraction` with its 95%
    confidence interval `low` to `high`, and `probability_change`, the mean change in [-1, 1] of the probability of
    the class predicted for the original.
    """
    rows = []
    for name, (model, transform, split) in classifiers.items():
        count = min(num_images, len(split))
        drawn = np.sort(np.random.default_rng(0).choice(len(split), count, replace=False))
        found = _probabilities(model, transform, split.select(drawn), batch_size)
        original = found.pop(ORIGINAL)
        predicted = original.argmax(axis=1)
        for version, probabilities in found.items():
            changed = int((probabilities.argmax(axis=1) != predicted).sum())
            low, high = wilson_interval(changed / count, count)
            row = {"model": name, "counterfactual": version, "images": count, "changed": changed}
            row |= {"fraction": changed / count, "low": low, "high": high}
            change = (probabilities - original)[np.arange(count), predicted].mean()
            rows.append(row | {"probability_change": change})
    return pd.DataFrame(rows)


@torch.inference_mode()
def _probabilities(
    model: PreTrainedModel, transform: ImageTransform, split: ImageSplit, batch_size: int
) -> dict[str, np.ndarray]:
    """Class probabilities (n, C) for the images of a split and each of their counterfactuals."""
    device = next(model.parameters()).device
    parts: dict[str, list[torch.Tensor]] = {}
    for rows in split.rows.split(batch_size):
        for version, changed in _versions(split, rows, transform, device).items():
            logits = to_classes_of(split, model, finite(model(pixel_values=transform(changed, training=False)).logits))
            parts.setdefault(version, []).append(logits.float().softmax(dim=-1).cpu())
    return {version: torch.cat(found).numpy() for version, found in parts.items()}


def _versions(
    split: ImageSplit, rows: torch.Tensor, transform: ImageTransform, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """The images as the network sees them but for normalisation, and their counterfactuals."""
    pixels = transform.seen(split.pixels.index_select(0, rows)).to(device)
    return {ORIGINAL: pixels, **counterfactuals(pixels, transform.image_mean)}


def write_counterfactuals(
    classifiers: Mapping[str, Classifier], shown: ShownImages, file: str | Path, batch_size: int = 64
) -> Path:
    """Draws the images of [`images_to_show`], their counterfactuals and the predictions of each classifier."""
    found = {
        name: _probabilities(model, transform, split.select(shown.positions), batch_size)
        for name, (model, transform, split) in classifiers.items()
    }
    *_, (_, transform, split) = classifiers.values()
    rows = split.rows[torch.from_numpy(shown.positions)]
    images = {version: pixels.numpy() for version, pixels in _versions(split, rows, transform).items()}
    return counterfactual_panel(images, split.labels[rows].numpy(), found, split.class_names, shown.title, file)


def reliance_text(table: pd.DataFrame) -> str:
    """Formats the table of [`measure_reliance`] in percent, a row per counterfactual and a column per model."""
    cells = [f"{100 * row.fraction:.0f} ({100 * row.low:.0f}-{100 * row.high:.0f})" for row in table.itertuples()]
    wide = table.assign(cell=cells).pivot(index="counterfactual", columns="model", values="cell")
    wide = wide.loc[table["counterfactual"].unique(), table["model"].unique()]
    title = f"Predictions that change, percent of {table['images'].iloc[0]:,} images (95% confidence intervals):"
    return f"{title}\n{wide.rename_axis(index=None, columns=None).to_string()}"


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
