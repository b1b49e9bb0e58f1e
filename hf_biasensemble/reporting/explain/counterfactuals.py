"""What predictions depend on: how they change when one thing about the images does. No bias labels are needed."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.evaluation.classifier import finite
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.reporting.explain.changed_images import counterfactuals
from hf_biasensemble.reporting.explain.shown_images import Classifier, ShownImages
from hf_biasensemble.reporting.figures.counterfactuals import PredictionChange, counterfactual_panel, reliance_figure


@dataclass(frozen=True)
class Reliance:
    """How the predictions of a model change under one counterfactual.

    Attributes:
        images: Number of images.
        changed: Of how many another class is predicted.
        probability_change: Mean change of the probability of the class that was predicted before, in [-1, 1].
    """

    images: int
    changed: int
    probability_change: float

    @property
    def fraction(self) -> float:
        """Of the predictions that change, in [0, 1]."""
        return self.changed / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% confidence interval of the fraction."""
        return wilson_interval(self.fraction, self.images)


RelianceTable = dict[str, dict[str, Reliance]]
"""By model and, within it, by counterfactual."""

_ORIGINAL = "original"


def measure_reliance(
    classifiers: Mapping[str, Classifier], num_images: int = 500, batch_size: int = 64, seed: int = 0
) -> RelianceTable:
    """How many predictions change under each of the [`counterfactuals`].

    Args:
        classifiers (`Mapping[str, Classifier]`): Classifiers by the name to show; their splits hold the same images.
        num_images (`int`, *optional*, defaults to 500): Images to draw from the split; all if there are not as many.
        batch_size (`int`, *optional*, defaults to 64): Images at a time.
        seed (`int`, *optional*, defaults to 0): Of the draw.
    """
    table: RelianceTable = {}
    for name, (model, transform, split) in classifiers.items():
        count = min(num_images, len(split))
        drawn = np.sort(np.random.default_rng(seed).choice(len(split), count, replace=False))
        change = _change(model, transform, split.select(drawn), batch_size)
        table[name] = {
            version: Reliance(
                images=count,
                changed=int((change.predictions[version] != change.predictions[_ORIGINAL]).sum()),
                probability_change=float((change.kept[version] - change.kept[_ORIGINAL]).mean()),
            )
            for version in change.predictions
            if version != _ORIGINAL
        }
    return table


@torch.inference_mode()
def counterfactual_probabilities(
    model: PreTrainedModel, transform: ImageTransform, split: ImageSplit, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Probabilities of the K classes for the N images of a split as they are ("original"), and for each of their
    [`counterfactuals`].

    Args:
        model (`PreTrainedModel`): In evaluation mode; takes `pixel_values`, gives `logits`.
        transform (`ImageTransform`): Its preprocessing. The images are changed as the network sees them, before
            normalisation; its mean is the colour of what is masked.
        split (`ImageSplit`): The images.
        batch_size (`int`, *optional*, defaults to 64): Images at a time.

    Returns:
        `dict[str, np.ndarray]`: float32 (N, K) by name.
    """
    device = next(model.parameters()).device
    found: dict[str, list[torch.Tensor]] = {}
    for rows in split.rows.split(batch_size):
        pixels = transform.seen(split.pixels.index_select(0, rows)).to(device)
        for version, changed in _versions(pixels, transform).items():
            logits = finite(model(pixel_values=transform(changed, training=False)).logits)
            found.setdefault(version, []).append(logits.float().softmax(dim=-1).cpu())
    return {version: torch.cat(parts).numpy() for version, parts in found.items()}


def _versions(pixels: torch.Tensor, transform: ImageTransform) -> dict[str, torch.Tensor]:
    return {_ORIGINAL: pixels, **counterfactuals(pixels, transform.image_mean)}


def _change(model: PreTrainedModel, transform: ImageTransform, split: ImageSplit, batch_size: int) -> PredictionChange:
    probabilities = counterfactual_probabilities(model, transform, split, batch_size)
    predictions = {version: values.argmax(axis=-1) for version, values in probabilities.items()}
    samples = np.arange(len(split))
    return PredictionChange(
        predictions=predictions,
        confidences={version: values.max(axis=-1) for version, values in probabilities.items()},
        kept={version: values[samples, predictions[_ORIGINAL]] for version, values in probabilities.items()},
    )


def write_counterfactuals(
    classifiers: Mapping[str, Classifier], shown: ShownImages, file: str | Path, batch_size: int = 64
) -> Path:
    """Draws a few images and their counterfactuals, with what each classifier predicts for them.

    Args:
        classifiers (`Mapping[str, Classifier]`): As [`images_to_show`] takes them.
        shown (`ShownImages`): What it gave.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).
        batch_size (`int`, *optional*, defaults to 64): Images at a time.

    Returns:
        `Path`: `file`.
    """
    found = {
        name: _change(model, transform, split.select(shown.positions), batch_size)
        for name, (model, transform, split) in classifiers.items()
    }
    *_, (_, transform, split) = classifiers.values()
    rows = split.rows[torch.from_numpy(shown.positions)]
    versions = _versions(transform.seen(split.pixels.index_select(0, rows)), transform)
    images = {version: pixels.numpy() for version, pixels in versions.items()}
    return counterfactual_panel(images, split.labels[rows].numpy(), found, split.class_names, shown.title, file)


def write_reliance(table: RelianceTable, csv_file: str | Path, figure_file: str | Path) -> list[Path]:
    """Writes the table as CSV, a row for each model and counterfactual, and as a picture.

    Args:
        table (`RelianceTable`): What [`measure_reliance`] gave.
        csv_file (`str` or `Path`): CSV file to write.
        figure_file (`str` or `Path`): Image to write (.png, .svg, .pdf).

    Returns:
        `list[Path]`: Both files.
    """
    with written_whole(csv_file) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            ["model", "counterfactual", "images", "changed", "fraction", "low", "high", "probability_change"]
        )
        for model, found in table.items():
            for counterfactual, reliance in found.items():
                numbers = (reliance.fraction, *reliance.interval, reliance.probability_change)
                rounded = (f"{number:.4f}" for number in numbers)
                writer.writerow([model, counterfactual, reliance.images, reliance.changed, *rounded])
    images = next(reliance.images for found in table.values() for reliance in found.values())
    drawn = {
        model: {name: (reliance.fraction, *reliance.interval) for name, reliance in found.items()}
        for model, found in table.items()
    }
    return [Path(csv_file), reliance_figure(drawn, images, figure_file)]


def reliance_text(table: RelianceTable) -> str:
    """The table for a terminal: percent of the predictions that change, a row for each counterfactual."""
    images = next(reliance.images for found in table.values() for reliance in found.values())
    widths = [max(len(model), 16) for model in table]
    lines = [f"Predictions that change, percent of {images:,} images (95% confidence intervals):"]
    lines.append(" " * 16 + "".join(f"  {model:>{width}}" for model, width in zip(table, widths, strict=True)))
    for name in next(iter(table.values())):
        cells = []
        for found, width in zip(table.values(), widths, strict=True):
            low, high = found[name].interval
            cells.append(f"  {f'{100 * found[name].fraction:.0f} ({100 * low:.0f}-{100 * high:.0f})':>{width}}")
        lines.append(f"{name:<16}" + "".join(cells))
    return "\n".join(lines)
