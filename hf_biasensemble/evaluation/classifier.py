"""A classifier on a decoded split, without a Trainer."""

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
"""Of all samples together; whole batches may be more."""


def in_blocks(split: ImageSplit, logits_each: int, batch_size: int) -> Iterator[ImageSplit]:
    """The split in parts of whole batches, in order. Of 1,000 classes, the logits of all samples at once would take
    more memory than the images; those of a part are about `LOGITS_AT_ONCE`, if each sample has `logits_each`."""
    batches = max(1, LOGITS_AT_ONCE // (logits_each * batch_size))
    for positions in torch.arange(len(split)).split(batches * batch_size):
        yield split.select(positions)


def joined(parts: Iterable[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """Columns (R, ...) of all `count` samples, from those of consecutive parts, which are copied as they come.

    Small arrays that are kept lie between the large ones of each block, whose memory then cannot be used again.
    """
    columns: dict[str, np.ndarray] = {}
    done = end = 0
    for part in parts:
        for name, values in part.items():
            if name not in columns:
                columns[name] = np.empty((count, *values.shape[1:]), values.dtype)
            end = done + len(values)
            columns[name][done:end] = values
        done = end
    return columns


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Returns the logits (B, ...) unchanged if all are finite: NaN would count as a class.

    Raises:
        `BiasEnsembleError`: If one is not finite.
    """
    bad = ~logits.flatten(1).isfinite().all(dim=1)
    if bad.any():
        raise BiasEnsembleError(
            f"expected finite logits, found NaN or infinity for {int(bad.sum())} of {len(bad)} images; use another "
            "model if the training of this one diverged, or bf16 or float32 in place of fp16, which may overflow"
        )
    return logits


@torch.inference_mode()
def predict_logits(
    model: nn.Module, split: ImageSplit, transform: ImageTransform | FeatureTransform, batch_size: int
) -> torch.Tensor:
    """Logits of the split's samples in its order, float32, on the model's device.

    Args:
        model (`nn.Module`): Takes `pixel_values` (B, C, H, W); its output holds `logits` (B, ...).
        split (`ImageSplit`): The images.
        transform (`ImageTransform`): From uint8 batches to network input; not augmented.
        batch_size (`int`): Images at a time, at least 1.

    Raises:
        `BiasEnsembleError`: If a logit is not finite.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    # One tensor from the start: joined at the end, the logits would be there twice.
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
    """Raises `BiasEnsembleError` if a model with this transform reads other input than the split holds."""

    def named(numbers: int | None) -> str:
        return f"vectors of {numbers} numbers (--feature_column)" if numbers else "images"

    wanted = named(transform.mean.numel() if isinstance(transform, FeatureTransform) else None)
    found = named(split.pixels.shape[-1] if isinstance(split.pixels, Features) else None)
    if wanted != found:
        raise BiasEnsembleError(f"expected {wanted}, which the model was trained on, found {found}")


def predict_classes(
    model: PreTrainedModel, split: ImageSplit, transform: ImageTransform | FeatureTransform, batch_size: int
) -> np.ndarray:
    """Predicted classes (R,) of the split's samples, numbered as in the data; the model's classes are matched by name.

    Raises:
        `BiasEnsembleError`: If the model has other classes or input than the data, or a logit is not finite.
    """
    check_input(split, transform)
    parts = in_blocks(split, model.config.num_labels, batch_size)
    logits = (to_classes_of(part, model, predict_logits(model, part, transform, batch_size)) for part in parts)
    return joined(({"classes": found.argmax(dim=-1).cpu().numpy()} for found in logits), len(split))["classes"]


def to_classes_of(
    split: ImageSplit, model: PreTrainedModel, logits: torch.Tensor, name: str = "the model"
) -> torch.Tensor:
    """Logits (R, K) of the model in the order of the data's classes, matched by name.

    Raises:
        `BiasEnsembleError`: If the model, which is called `name`, has other classes.
    """
    names = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    if sorted(names) != sorted(split.class_names) or len(set(names)) < len(names):
        raise BiasEnsembleError(
            f"{name}: expected a model of the classes {', '.join(split.class_names)}, found {', '.join(names)}"
        )
    if names == split.class_names:
        return logits
    places = {class_name: place for place, class_name in enumerate(names)}
    return logits[:, [places[class_name] for class_name in split.class_names]]


def evaluate_classifier(
    model: PreTrainedModel, split: ImageSplit, transform: ImageTransform, batch_size: int = 512
) -> dict[str, float]:
    """[`bias_accuracy`] of the classifier on the split; classes are matched by name.

    Raises:
        `BiasEnsembleError`: If the model has other classes or input than the data, or a logit is not finite.
    """
    return bias_accuracy(predict_classes(model, split, transform, batch_size), **split.measured_by())


def measured(split: ImageSplit, predictions: np.ndarray) -> dict[str, Any]:
    """[`bias_accuracy`] of predicted classes (R,) in the order of the split, and [`details_of`] these."""
    return bias_accuracy(predictions, **split.measured_by()) | details_of(split, predictions)


def details_of(split: ImageSplit, predictions: np.ndarray) -> dict[str, Any]:
    """What stands beside the accuracies of a split, from its predicted classes (R,): `intervals` as of
    [`accuracy_intervals`] and, with groups, `worst_group`: its class, bias and number of images."""
    columns = split.measured_by()
    details: dict[str, Any] = {"intervals": accuracy_intervals(predictions, **columns)}
    if groups := split.groups():
        bias_names, attribute = groups
        known = attribute >= 0
        if not known.any():
            return details
        cells, accuracy, counts = accuracy_by_group(predictions[known], columns["labels"][known], attribute[known])
        label, bias = cells[accuracy.argmin()]
        images = int(counts[accuracy.argmin()])
        details["worst_group"] = {"class": split.class_names[label], "bias": bias_names[bias], "images": images}
    return details
