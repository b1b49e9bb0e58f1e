"""Predictions and accuracy of a classifier on a decoded split, without a Trainer."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_biasensemble.data.batches.prefetching import prefetched
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import Features, FeatureTransform
from hf_biasensemble.evaluation.accuracy import accuracy_by_group, accuracy_intervals, bias_accuracy
from hf_biasensemble.internal.errors import BiasEnsembleError

LOGITS_AT_ONCE = 1 << 20
"""Logits of a part of a split; a single batch may have more."""


def in_blocks(split: ImageSplit, logits_each: int, batch_size: int) -> Iterator[ImageSplit]:
    """Consecutive parts of the split, whole batches with about `LOGITS_AT_ONCE` logits, `logits_each` per sample. With
    1,000 classes, the logits of all samples at once would take more memory than the images."""
    batches = max(1, LOGITS_AT_ONCE // (logits_each * batch_size))
    for positions in torch.arange(len(split)).split(batches * batch_size):
        yield split.select(positions)


def joined(parts: Iterable[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """Concatenates columns (R, ...) of consecutive parts of `count` samples into preallocated arrays.

    Small arrays kept from each part would lie between its large ones and fragment their memory.
    """
    columns: dict[str, np.ndarray] = {}
    start = 0
    for part in parts:
        for name, values in part.items():
            if name not in columns:
                columns[name] = np.empty((count, *values.shape[1:]), values.dtype)
            columns[name][start : start + len(values)] = values
        start += len(values)
    return columns


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Returns the logits (B, ...) unchanged if all are finite, else raises: argmax would take NaN for a class."""
    bad = ~logits.flatten(1).isfinite().all(dim=1)
    if bad.any():
        raise BiasEnsembleError(
            f"expected finite logits, found NaN or infinity for {int(bad.sum())} of {len(bad)} images; use another "
            "model if the training of this one diverged, or bf16 or float32 instead of fp16, which may overflow"
        )
    return logits


@torch.inference_mode()
def predict_logits(
    model: nn.Module, split: ImageSplit, transform: ImageTransform | FeatureTransform, batch_size: int
) -> torch.Tensor:
    """Logits (N, ...) of the split's samples without augmentation, in its order, float32, on the model's device.

    The model takes `pixel_values`; its output has `logits` (B, ...). Refuses logits that are not finite.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # Preallocated: concatenating batches would hold the logits twice.
    logits = torch.empty(0)
    batches = ({"pixel_values": split.pixels_of(rows)} for rows in split.rows.split(batch_size))
    for number, batch in enumerate(prefetched(batches, device)):
        found = model(pixel_values=transform(batch["pixel_values"], training=False))["logits"]
        if number == 0:
            logits = found.new_empty((len(split), *found.shape[1:]), dtype=torch.float32)
        logits[number * batch_size :][: len(found)] = found
    model.train(was_training)
    return finite(logits)


def check_input(split: ImageSplit, transform: ImageTransform | FeatureTransform) -> None:
    """Refuses a split with vectors for a model of images, the reverse, and vectors of another width."""

    def describe(width: int | None) -> str:
        return f"vectors of {width} numbers (--feature_column)" if width else "images"

    wanted = describe(transform.mean.numel() if isinstance(transform, FeatureTransform) else None)
    found = describe(split.pixels.shape[-1] if isinstance(split.pixels, Features) else None)
    if wanted != found:
        raise BiasEnsembleError(f"expected {wanted}, which the model was trained on, found {found}")


def predict_classes(
    model: PreTrainedModel, split: ImageSplit, transform: ImageTransform | FeatureTransform, batch_size: int
) -> np.ndarray:
    """Predicted classes (R,) of the split's samples, numbered as in the data; classes are matched by name."""
    check_input(split, transform)
    parts = in_blocks(split, model.config.num_labels, batch_size)
    logits = (to_classes_of(part, model, predict_logits(model, part, transform, batch_size)) for part in parts)
    return joined(({"classes": found.argmax(dim=-1).cpu().numpy()} for found in logits), len(split))["classes"]


def to_classes_of(
    split: ImageSplit, model: PreTrainedModel, logits: torch.Tensor, name: str = "the model"
) -> torch.Tensor:
    """Reorders logits (R, K) by name to the classes of the data; refuses a model of other classes as `name`."""
    names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    if sorted(names) != sorted(split.class_names) or len(set(names)) < len(names):
        raise BiasEnsembleError(
            f"{name}: expected a model of the classes {', '.join(split.class_names)}, found {', '.join(names)}"
        )
    if names == split.class_names:
        return logits
    places = {name: place for place, name in enumerate(names)}
    return logits[:, [places[class_name] for class_name in split.class_names]]


def evaluate_classifier(
    model: PreTrainedModel, split: ImageSplit, transform: ImageTransform, batch_size: int = 512
) -> dict[str, float]:
    """Computes [`bias_accuracy`] of a classifier on a split.

    Args:
        model (`PreTrainedModel`): An image classifier; its classes are matched with those of the split by name.
        split (`ImageSplit`): Decoded images.
        transform (`ImageTransform`): The preprocessing of the model, as returned by [`load_classifier`].
        batch_size (`int`, *optional*, defaults to 512): Images at a time.

    Raises:
        `BiasEnsembleError`: If the classes or inputs of the model and the split differ, or a logit is not finite.
    """
    return bias_accuracy(predict_classes(model, split, transform, batch_size), **split.measured_by())


def measured(split: ImageSplit, predictions: np.ndarray) -> dict[str, Any]:
    """[`bias_accuracy`] and [`details_of`] predicted classes (R,), in the order of the split."""
    return bias_accuracy(predictions, **split.measured_by()) | details_of(split, predictions)


def details_of(split: ImageSplit, predictions: np.ndarray) -> dict[str, Any]:
    """Results beside the accuracies of predicted classes (R,): `intervals` from [`accuracy_intervals`] and, if the
    split has groups, class, bias and number of images of the `worst_group`."""
    columns = split.measured_by()
    details: dict[str, Any] = {"intervals": accuracy_intervals(predictions, **columns)}
    groups = split.groups()
    if groups and (known := groups[1] >= 0).any():
        bias_names, attribute = groups
        cells, accuracy, counts = accuracy_by_group(predictions[known], columns["labels"][known], attribute[known])
        worst = accuracy.argmin()
        label, bias = cells[worst]
        names = {"class": split.class_names[label], "bias": bias_names[bias]}
        details["worst_group"] = {**names, "images": int(counts[worst])}
    return details
