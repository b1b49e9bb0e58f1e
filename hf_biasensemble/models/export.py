"""The classifier alone, saved so that `from_pretrained` opens it, and opened again with its preprocessing.

A single-encoder timm classifier becomes a `timm_wrapper` model, which plain transformers (and timm) load without code
of ours. Anything else is saved with its modeling file beside it. Both name the image processor of `timm_wrapper` in
`config.json`: as in training, it resizes with PIL and computes `(pixel / 255 - mean) / std` in that order.
`ViTImageProcessor` resizes tensors, which can be one grey level off, and rounds in another order.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
)

import hf_biasensemble.models.registration  # noqa: F401
from hf_biasensemble.data.transforms import ImageTransform
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, DebiasedImageClassifierConfig


def save_classifier(model: DebiasedImageClassifier, transform: ImageTransform, folder: str | Path) -> None:
    """Writes config, weights (safetensors), preprocessing and, where needed, the modeling file.

    Args:
        model (`DebiasedImageClassifier`): The trained classifier.
        transform (`ImageTransform`): The preprocessing it was trained with; its augmentation is not saved.
        folder (`str` or `Path`): Where to; made if missing.
    """
    wrapped = as_timm_wrapper(model, transform)
    if wrapped is not None:
        # Keys as timm has them, so that timm opens the folder too.
        wrapped.save_pretrained(folder, state_dict=wrapped.timm_model.state_dict())
        return
    model.config.pretrained_cfg = preprocessing(model.config, transform)
    model.config.image_processor_type = TimmWrapperImageProcessor.__name__
    model.save_pretrained(folder)


def preprocessing(config: DebiasedImageClassifierConfig, transform: ImageTransform) -> dict[str, Any]:
    """Image size and normalisation in timm's terms."""
    return {
        "input_size": [config.num_channels, config.image_size, config.image_size],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(transform.image_mean),
        "std": list(transform.image_std),
    }


def as_timm_wrapper(
    model: DebiasedImageClassifier, transform: ImageTransform
) -> TimmWrapperForImageClassification | None:
    """The same classifier as a `timm_wrapper` model, or `None` where that cannot express it."""
    config = model.config
    if config.backbone == "mlp" or config.num_encoders != 1:
        return None
    labels = [config.id2label[number] for number in range(config.num_labels)]
    wrapped = TimmWrapperForImageClassification(
        TimmWrapperConfig(
            architecture=config.backbone,
            model_args=config.timm_arguments(),
            id2label=dict(enumerate(labels)),
            label2id={name: number for number, name in enumerate(labels)},
            pretrained_cfg=preprocessing(config, transform),
        )
    )
    network = wrapped.timm_model
    head = _head_name(config.backbone)
    weights = {name: value.cpu() for name, value in model.encoder.state_dict().items()}
    weights |= {f"{head}.{name}": value.cpu() for name, value in model.classifier.state_dict().items()}
    if weights.keys() != network.state_dict().keys():
        return None
    network.load_state_dict(weights)
    return wrapped.eval()


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a published classifier by the names of [`DebiasedImageClassifier`]."""
    if not isinstance(model, TimmWrapperForImageClassification):
        return model.state_dict()
    head = _head_name(model.config.architecture)
    return {
        name.replace(f"{head}.", "classifier.", 1) if name.startswith(f"{head}.") else f"encoder.{name}": value
        for name, value in model.timm_model.state_dict().items()
    }


def _head_name(architecture: str) -> str:
    return timm.models.get_pretrained_cfg_value(architecture, "classifier") or "fc"


def load_classifier(name: str) -> tuple[PreTrainedModel, ImageTransform, int]:
    """Opens a published classifier.

    Args:
        name (`str`): Folder or Hub id of an image classification model.

    Returns:
        The model in evaluation mode, its preprocessing, and the height and width it expects in pixels.

    Raises:
        `BiasEnsembleError`: If there is no image classifier of that name.
    """
    try:
        model = AutoModelForImageClassification.from_pretrained(name)
        in_config = getattr(model.config, "pretrained_cfg", None)
        if in_config:
            mean, std, size = in_config["mean"], in_config["std"], in_config["input_size"][-1]
        else:
            processor = AutoImageProcessor.from_pretrained(name)
            mean, std, size = processor.image_mean, processor.image_std, processor.size["height"]
    except (OSError, ValueError, RuntimeError) as error:
        raise BiasEnsembleError(
            f"--model {name}: expected a folder or Hub id with an image classifier, found none that opens "
            f"({' '.join(str(error).split())[:300]})"
        ) from error
    return model.eval(), ImageTransform(tuple(mean), tuple(std)), size
