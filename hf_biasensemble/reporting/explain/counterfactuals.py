"""What predictions depend on: how they change when one property of the images does, and which images show it best.

No bias labels are needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from transformers import PreTrainedModel

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.evaluation.classifier import finite, predict_classes, to_classes_of
from hf_biasensemble.reporting.explain.changed_images import counterfactuals
from hf_biasensemble.reporting.figures.counterfactuals import ORIGINAL, counterfactual_panel

Classifier = tuple[PreTrainedModel, ImageTransform, ImageSplit]
"""A model, its preprocessing, and the images as it wants them decoded."""


@dataclass(frozen=True)
class ShownImages:
    """A few images of a split: their positions in it, int64 (n,), and what is special about them."""

    positions: np.ndarray
    title: str


def images_to_show(classifiers: Mapping[str, Classifier], num_images: int = 8, batch_size: int = 512) -> ShownImages:
    """Images that the last classifier gets right and all before it get wrong, bias-conflicting ones where that is
    known, the classes taking turns; none if there is no such image.

    Args:
        classifiers: One or several, by the name to show; their splits hold the same images.
        num_images: Images at most.
        batch_size: Images at a time when predicting.

    Raises:
        `BiasEnsembleError`: If a model has other classes than the data.
    """
    *_, (_, _, split) = classifiers.values()
    measured = split.measured_by()
    labels, conflicting = measured["labels"], measured["is_conflicting"]
    kind = "images" if conflicting is None else "bias-conflicting images"
    among = np.ones(len(labels), dtype=bool) if conflicting is None else conflicting
    wanted, special = among, []
    *_, last = classifiers
    for name, (model, transform, images) in classifiers.items():
        is_right = predict_classes(model, images, transform, batch_size) == labels
        wanted = wanted & (is_right if name == last else ~is_right)
        special.append(f"{name} {'right' if name == last else 'wrong'}")
    title = f"{wanted.sum():,} of {among.sum():,} {kind}: {' and '.join(special)}"
    return ShownImages(classes_in_turn(np.flatnonzero(wanted), labels)[:num_images], title)


def classes_in_turn(candidates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The candidates with the first of every class before the second of any."""
    classes = pd.Series(labels[candidates])
    return candidates[np.lexsort((classes, classes.groupby(classes).cumcount()))]


def measure_reliance(
    classifiers: Mapping[str, Classifier], num_images: int = 500, batch_size: int = 64, seed: int = 0
) -> pd.DataFrame:
    """How many predictions change under each of the [`counterfactuals`], on at most `num_images` images drawn with
    `seed`.

    Returns a row for each `model` and `counterfactual`: `images`, how many of their predictions `changed`, the
    `fraction` with its 95% confidence interval, `low` to `high`, and `probability_change`, the mean change of the
    probability of the class predicted for the original, in [-1, 1].
    """
    rows = []
    for name, (model, transform, split) in classifiers.items():
        count = min(num_images, len(split))
        drawn = np.sort(np.random.default_rng(seed).choice(len(split), count, replace=False))
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
    """Probabilities (n, C) of the classes for the images of a split, and for versions of them that are changed as the
    network sees them, before normalisation."""
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
    pixels = transform.seen(split.pixels.index_select(0, rows)).to(device)
    return {ORIGINAL: pixels, **counterfactuals(pixels, transform.image_mean)}


def write_counterfactuals(
    classifiers: Mapping[str, Classifier], shown: ShownImages, file: str | Path, batch_size: int = 64
) -> Path:
    """Draws the images that [`images_to_show`] chose, their counterfactuals, and what each classifier predicts."""
    found = {
        name: _probabilities(model, transform, split.select(shown.positions), batch_size)
        for name, (model, transform, split) in classifiers.items()
    }
    *_, (_, transform, split) = classifiers.values()
    rows = split.rows[torch.from_numpy(shown.positions)]
    images = {version: pixels.numpy() for version, pixels in _versions(split, rows, transform).items()}
    return counterfactual_panel(images, split.labels[rows].numpy(), found, split.class_names, shown.title, file)


def reliance_text(table: pd.DataFrame) -> str:
    """The table of [`measure_reliance`] for a terminal: percent, a row for each counterfactual."""
    cells = [f"{100 * row.fraction:.0f} ({100 * row.low:.0f}-{100 * row.high:.0f})" for row in table.itertuples()]
    wide = table.assign(cell=cells).pivot(index="counterfactual", columns="model", values="cell")
    wide = wide.loc[table["counterfactual"].unique(), table["model"].unique()]
    title = f"Predictions that change, percent of {table['images'].iloc[0]:,} images (95% confidence intervals):"
    return f"{title}\n{wide.rename_axis(index=None, columns=None).to_string()}"
