"""What classifiers look at in images that contradict the shortcut, by integrated gradients (captum)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.reporting.explain.shown_images import Classifier, ShownImages
from hf_biasensemble.reporting.figures.panels import Explained, evidence_panel

BATCH_SIZE = 64
STEPS = 32
"""Points between the black image and the image at which gradients are taken."""


def write_evidence(classifiers: Mapping[str, Classifier], shown: ShownImages, file: str | Path) -> Path:
    """Draws a few images beside what each classifier predicts and the pixels that speak for it.

    Args:
        classifiers (`Mapping[str, Classifier]`): One classifier, or several, by the name to show; their splits hold
            the same images.
        shown (`ShownImages`): What [`images_to_show`] gave for them.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).

    Returns:
        `Path`: `file`.
    """
    explained = {}
    for name, classifier in classifiers.items():
        predicted = shown.predictions[name]
        attributions = integrated_gradients(*classifier, shown.positions, predicted)
        explained[name] = Explained(predicted, attributions)
    *_, (_, transform, split) = classifiers.values()
    rows = split.rows[torch.from_numpy(shown.positions)]
    images = transform.seen(split.pixels.index_select(0, rows)).numpy()
    return evidence_panel(images, split.labels[rows].numpy(), explained, split.class_names, shown.title, file)


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
