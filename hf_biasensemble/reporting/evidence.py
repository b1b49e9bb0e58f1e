"""What classifiers look at in images that contradict the shortcut, by integrated gradients (captum)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.transforms import ImageTransform
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.evaluation import check_classes, predict_logits
from hf_biasensemble.reporting.figures.panels import Explained, classes_in_turn, evidence_panel

BATCH_SIZE = 64
STEPS = 32
"""Points between the black image and the image at which gradients are taken."""

Classifier = tuple[PreTrainedModel, ImageTransform, ImageSplit]
"""A model, its preprocessing, and the images as it wants them decoded."""


def write_evidence(
    classifiers: Mapping[str, Classifier], file: str | Path, num_images: int = 8, batch_size: int = 512
) -> Path:
    """Draws a few images beside what each classifier predicts and the pixels that speak for it.

    The images are those that the last classifier gets right and all before it get wrong, bias-conflicting ones where
    that is known, the classes taking turns.

    Args:
        classifiers (`Mapping[str, Classifier]`): One classifier, or several, by the name to show; their splits hold
            the same images.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).
        num_images (`int`, *optional*, defaults to 8): Images to show at most.
        batch_size (`int`, *optional*, defaults to 512): Images at a time when predicting.

    Returns:
        `Path`: `file`.

    Raises:
        `BiasEnsembleError`: If a model has other classes than the data, if neither bias labels nor a second model say
            which images to look for, or if there is no such image.
    """
    *others, (model, transform, split) = classifiers.values()
    measured = split.measured_by()
    conflicting = measured["is_conflicting"]
    if conflicting is None and not others:
        raise BiasEnsembleError(
            "expected data that say which images are bias-conflicting, found none; name a biased model with "
            "--compare_with, to see images that it gets wrong"
        )
    labels = measured["labels"]
    predictions = {name: _predictions(*classifier, batch_size) for name, classifier in classifiers.items()}
    *wrong, right = predictions.values()
    wanted = right == labels
    for predicted in wrong:
        wanted &= predicted != labels
    if conflicting is not None:
        wanted &= conflicting
    kind = "images" if conflicting is None else "bias-conflicting images"
    *other_names, name = classifiers
    title = " and ".join([*(f"{other} wrong" for other in other_names), f"{name} right"])
    candidates = np.flatnonzero(wanted)
    if not len(candidates):
        raise BiasEnsembleError(f"expected {kind} with {title}, found none of {len(labels):,}; nothing to draw")
    shown = classes_in_turn(candidates, labels)[:num_images]
    explained = {
        name: Explained(predictions[name][shown], integrated_gradients(*classifier, shown, predictions[name][shown]))
        for name, classifier in classifiers.items()
    }
    total = len(labels) if conflicting is None else int(conflicting.sum())
    title = f"{len(candidates):,} of {total:,} {kind}: {title}"
    images = transform.seen(split.pixels.index_select(0, split.rows[torch.from_numpy(shown)])).numpy()
    return evidence_panel(images, labels[shown], explained, split.class_names, title, file)


def integrated_gradients(
    model: PreTrainedModel, transform: ImageTransform, split: ImageSplit, positions: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """How much each pixel speaks for a class: gradients of its logit, summed up on the way from a black image
    (https://huggingface.co/papers/1703.01365). They add up to the difference of the logits.

    Args:
        model (`PreTrainedModel`): In evaluation mode; takes `pixel_values`, gives `logits`.
        transform (`ImageTransform`): Its preprocessing.
        split (`ImageSplit`): The images.
        positions (`np.ndarray` of shape (n,)): Which of them, by position in the split.
        targets (`np.ndarray` of shape (n,)): The class of each.

    Returns:
        `np.ndarray` of shape (n, H, W): Sums over the channels; above 0 for the class, below 0 against it.
    """
    from captum.attr import IntegratedGradients

    device = next(model.parameters()).device
    pixels = split.pixels.index_select(0, split.rows[torch.from_numpy(positions)]).to(device)
    inputs, black = transform(pixels, training=False), transform(torch.zeros_like(pixels), training=False)
    attributions = IntegratedGradients(lambda images: model(pixel_values=images).logits).attribute(
        inputs,
        black,
        target=torch.from_numpy(targets).to(device),
        n_steps=STEPS,
        internal_batch_size=BATCH_SIZE,
    )
    return attributions.detach().sum(dim=1).float().cpu().numpy()


def _predictions(model: PreTrainedModel, transform: ImageTransform, split: ImageSplit, batch_size: int) -> np.ndarray:
    check_classes(model, split)
    return predict_logits(model, split, transform, batch_size).argmax(dim=-1).cpu().numpy()
