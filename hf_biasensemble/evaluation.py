"""A saved classifier on a decoded split, without a Trainer."""

import torch
from transformers import PreTrainedModel

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.transforms import ImageTransform
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.metrics.accuracy import bias_accuracy


@torch.inference_mode()
def evaluate_classifier(
    model: PreTrainedModel, split: ImageSplit, transform: ImageTransform, batch_size: int = 512
) -> dict[str, float]:
    """[`bias_accuracy`] of the classifier on the split.

    Raises:
        `BiasEnsembleError`: If the model's classes are not those of the data.
    """
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    if names != split.class_names:
        raise BiasEnsembleError(
            f"expected a model of the classes {', '.join(split.class_names)}, found {', '.join(names)}"
        )
    device = next(model.parameters()).device
    predictions = []
    for rows in split.rows.split(batch_size):
        images = transform(split.pixels[rows].to(device), training=False)
        predictions.append(model(pixel_values=images).logits.argmax(dim=-1).cpu())
    return bias_accuracy(torch.cat(predictions).numpy(), **split.measured_by())
