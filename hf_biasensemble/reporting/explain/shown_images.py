"""Which images to explain predictions on: those that tell one model from another, or contradict the shortcut."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.classifier import check_classes, predict_classes

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
    predictions = []
    for model, transform, images in classifiers.values():
        check_classes(model, images)
        predictions.append(predict_classes(model, images, transform, batch_size))
    *wrong, right = predictions
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
    return ShownImages(shown, title)


def classes_in_turn(candidates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The candidates with the first of every class before the second of any."""
    turn = np.empty(len(candidates), dtype=np.int64)
    for label in np.unique(labels[candidates]):
        same = labels[candidates] == label
        turn[same] = np.arange(same.sum())
    return candidates[np.lexsort((labels[candidates], turn))]
