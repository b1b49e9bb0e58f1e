"""The classifier alone, saved so that `from_pretrained` opens it, and opened again with its preprocessing.

A single-encoder timm classifier becomes a `timm_wrapper` model, which plain transformers (and timm) load without code
of ours. Anything else is saved with its modeling file beside it. Both name the image processor of `timm_wrapper` in
`config.json`: as in training, it resizes and crops with PIL and computes `(pixel / 255 - mean) / std` in that order.
`ViTImageProcessor` resizes tensors, which can be one grey level off, and rounds in another order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
)
from transformers.utils import logging

import hf_biasensemble.models.registration  # noqa: F401
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.tensors import separate
from hf_biasensemble.models.modeling_debiased import FEATURES, DebiasedImageClassifier, DebiasedImageClassifierConfig
from hf_biasensemble.models.preprocessing import timm_geometry, timm_preprocessing
from hf_biasensemble.models.timm_errors import timm_source


def save_classifier(
    model: DebiasedImageClassifier, transform: ImageTransform, folder: str | Path, geometry: Geometry | None = None
) -> PreTrainedModel:
    """Writes config, weights (safetensors), preprocessing and, where needed, the modeling file.

    Args:
        model (`DebiasedImageClassifier`): The trained classifier.
        transform (`ImageTransform`): The preprocessing it was trained with; its augmentation is not saved.
        folder (`str` or `Path`): Where to; made if missing.
        geometry (`Geometry`, *optional*): How its images were resized and cropped; by default they were squashed to
            the configuration's `image_size`.

    Returns:
        `PreTrainedModel`: What was written: the classifier itself, or the same as a `timm_wrapper` model.
    """
    saved: PreTrainedModel | None = as_timm_wrapper(model, transform, geometry)
    weights: Any = saved.timm_model if saved is not None else model  # keys as timm has them, so that it opens them too
    if saved is None:
        saved, config = model, model.config
        architecture, arguments, _ = timm_source(config.backbone)
        config.backbone, config.backbone_args = architecture, {**arguments, **(config.backbone_args or {})}
        config.pretrained_cfg = preprocessing(config, transform, geometry)
        config.image_processor_type = TimmWrapperImageProcessor.__name__
    with without_bar():
        saved.save_pretrained(folder, state_dict=separate(weights.state_dict()))
    return saved


@contextmanager
def without_bar() -> Iterator[None]:
    """No bar of transformers for weights that are read or written in a moment, beside the progress of training."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def preprocessing(
    config: DebiasedImageClassifierConfig, transform: ImageTransform, geometry: Geometry | None = None
) -> dict[str, Any]:
    """Geometry and normalisation in timm's terms."""
    return {
        **timm_geometry(geometry or Geometry(config.image_size)),
        "mean": list(transform.image_mean),
        "std": list(transform.image_std),
    }


def as_timm_wrapper(
    model: DebiasedImageClassifier, transform: ImageTransform, geometry: Geometry | None = None
) -> TimmWrapperForImageClassification | None:
    """The same classifier as a `timm_wrapper` model, or `None` where that cannot express it."""
    config = model.config
    if config.backbone in ("mlp", FEATURES) or config.num_encoders != 1 or config.head_hidden is not None:
        return None
    architecture, arguments, _ = timm_source(config.backbone)
    labels = [config.id2label[number] for number in range(config.num_labels)]
    wrapped = TimmWrapperForImageClassification(
        TimmWrapperConfig(
            architecture=architecture,
            model_args={**arguments, **config.timm_arguments()},
            id2label=dict(enumerate(labels)),
            label2id={name: number for number, name in enumerate(labels)},
        )
    )
    network = wrapped.timm_model
    head = network.pretrained_cfg.get("classifier")
    wanted = network.state_dict()
    weights = {name: value.cpu() for name, value in model.encoder.state_dict().items()}
    weights |= {f"{head}.{name}": value.cpu() for name, value in model.classifier.state_dict().items()}
    if weights.keys() != wanted.keys():
        return None
    # Some heads are convolutions of one pixel.
    weights[f"{head}.weight"] = weights[f"{head}.weight"].reshape(wanted[f"{head}.weight"].shape)
    network.load_state_dict(weights)
    wrapped.config.pretrained_cfg = preprocessing(config, transform, geometry) | {
        key: network.pretrained_cfg.get(key)
        for key in ("classifier", "first_conv")  # timm adapts these
    }
    return wrapped.eval()


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a published classifier by the names of [`DebiasedImageClassifier`]."""
    if not isinstance(model, TimmWrapperForImageClassification):
        return model.state_dict()
    head = f"{model.timm_model.pretrained_cfg['classifier']}."
    return {
        name.replace(head, "classifier.", 1) if name.startswith(head) else f"encoder.{name}": (
            value.flatten(1) if name == f"{head}weight" else value
        )
        for name, value in model.timm_model.state_dict().items()
    }


def load_classifier(name: str) -> tuple[PreTrainedModel, ImageTransform, Geometry]:
    """Opens a published classifier.

    Args:
        name (`str`): Folder or Hub id of an image classification model.

    Returns:
        The model in evaluation mode, its preprocessing on the device, and what becomes of an image of any size before.

    Raises:
        `BiasEnsembleError`: If there is no image classifier of that name, or it wants images in a way that the library
            does not know.
    """
    try:
        model = AutoModelForImageClassification.from_pretrained(name)
        in_config = getattr(model.config, "pretrained_cfg", None)
        wanted = (
            timm_preprocessing(in_config) if in_config else _of_processor(AutoImageProcessor.from_pretrained(name))
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BiasEnsembleError(
            f"--model {name}: expected a folder or Hub id with an image classifier, found none that opens "
            f"({' '.join(str(error).split())[:300]})"
        ) from error
    unknown = [key for key, value in wanted.items() if value is None]
    if unknown:
        raise BiasEnsembleError(
            f"--model {name}: expected square images that are squashed, or whose centre is cropped, found another "
            f"{' and '.join(unknown)}; use transformers or timm for this model"
        )
    geometry = Geometry(wanted["image_size"], wanted["resize_mode"], wanted["interpolation"], wanted["crop_pct"])
    transform = ImageTransform(tuple(wanted["image_mean"]), tuple(wanted["image_std"]), image_size=geometry.image_size)
    return model.eval(), transform, geometry


def _of_processor(processor: Any) -> dict[str, Any]:
    """The same as [`timm_preprocessing`] of a processor of transformers, `None` for what the library cannot do.

    Where an odd number of pixels is cut off, theirs may start one pixel before ours.
    """
    size = dict(processor.size)
    edge = size.get("shortest_edge") or (size.get("height") if size.get("height") == size.get("width") else None)
    crops = getattr(processor, "do_center_crop", None)
    seen = dict(processor.crop_size).get("height") if crops else edge
    oblong = "shortest_edge" in size and not crops  # an image that is not square stays so
    method = getattr(processor, "resample", None)
    return {
        "image_size": None if oblong else seen,
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
        "interpolation": "bilinear" if method is None else Image.Resampling(int(method)).name.lower(),
        "crop_pct": min(1.0, seen / (edge + 0.5)) if seen and edge and seen != edge else 1.0,  # rounded down to `edge`
        "resize_mode": "crop" if "shortest_edge" in size else "squash",
    }
