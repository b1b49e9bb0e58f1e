"""Which images to explain predictions on: those that tell one model from another, or contradict the shortcut."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.classifier import check_classes, predict_classes
from hf_biasensemble.reporting.figures.panels import classes_in_turn

Classifier = tuple[PreTrainedModel, ImageTransform, ImageSplit]
"""A model, its preprocessing, and the images as it wants them decoded."""


@dataclass(frozen=True)
class ShownImages:
    """A few images of a split.

    Attributes:
        positions: int64 (n,), which they are, by position in the split.
        predictions: By classifier, int64 (n,), the classes that it predicts.
        title: What is special about them, and how many images of the split are like that.
    """

    positions: np.ndarray
    predictions: Mapping[str, np.ndarray]
    title: str


def images_to_show(classifiers: Mapping[str, Classifier], num_images: int = 8, batch_size: int = 512) -> ShownImages:
    """Images that the last classifier gets right and all before it get wrong, bias-conflicting ones where that is
    known, the classes taking turns.

    Args:
        classifiers (`Mapping[str, Classifier]`): One classifier, or several, by the name to show; their splits hold
            the same images.
        num_images (`int`, *optional*, defaults to 8): Images at most.
        batch_size (`int`, *optional*, defaults to 512): Images at a time when predicting.

    Returns:
        `ShownImages`: With no positions if there is no such image.

    Raises:
        `BiasEnsembleError`: If a model has other classes than the data.
    """
    *_, (_, _, split) = classifiers.values()
    measured = split.measured_by()
    labels, conflicting = measured["labels"], measured["is_conflicting"]
    predictions = {name: _predictions(*classifier, batch_size) for name, classifier in classifiers.items()}
    *wrong, right = predictions.values()
    wanted = right == labels
    for predicted in wrong:
        wanted &= predicted != labels
    if conflicting is not None:
        wanted &= conflicting
    kind = "images" if conflicting is None else "bias-conflicting images"
    *other_names, name = classifiers
    special = " and ".join([*(f"{other} wrong" for other in other_names), f"{name} right"])
    candidates = np.flatnonzero(wanted)
    shown = classes_in_turn(candidates, labels)[:num_images]
    total = len(labels) if conflicting is None else int(conflicting.sum())
    title = f"{len(candidates):,} of {total:,} {kind}: {special}"
    return ShownImages(shown, {name: predicted[shown] for name, predicted in predictions.items()}, title)


def _predictions(model: PreTrainedModel, transform: ImageTransform, split: ImageSplit, batch_size: int) -> np.ndarray:
    check_classes(model, split)
    return predict_classes(model, split, transform, batch_size)
