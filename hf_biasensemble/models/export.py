"""Saves classifiers for `from_pretrained`, and opens them with their preprocessing.

A single-encoder classifier is saved in the format of its backbone, which transformers opens without our code: a
transformers model with an image processor, or `timm_wrapper`, which timm opens, too. Other classifiers are saved with
their modeling file, and with the image processor of `timm_wrapper`, which preprocesses images as training does.
"""

from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
)

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.internal.tensors import separate
from hf_biasensemble.models.backbones import without_bar
from hf_biasensemble.models.modeling_debiased import (
    FEATURES,
    TRANSFORMERS,
    DebiasedImageClassifier,
    transformers_classifier,
)
from hf_biasensemble.models.preprocessing import (
    preprocessing_of,
    pretrained_cfg_of,
    processor_for,
    timm_preprocessing,
    transform_of,
)


def save_classifier(
    model: DebiasedImageClassifier, transform: ImageTransform, folder: str | Path, geometry: Geometry | None = None
) -> PreTrainedModel:
    """Writes config, weights, preprocessing and, where needed, the modeling file; returns the model as saved. Without
    a `geometry`, images are squashed to the configuration's `image_size`."""
    config, geometry = model.config, geometry or Geometry(model.config.image_size)
    saved = as_published(model) or model
    weights: Any = saved
    if isinstance(saved, TimmWrapperForImageClassification):
        weights = saved.timm_model  # timm opens only its own keys
        layers = {key: weights.pretrained_cfg.get(key) for key in ("classifier", "first_conv")}
        saved.config.pretrained_cfg = pretrained_cfg_of(transform, geometry) | layers
    elif isinstance(saved, DebiasedImageClassifier):
        if config.backbone != FEATURES:
            saved.config.pretrained_cfg = pretrained_cfg_of(transform, geometry)
            saved.config.image_processor_type = TimmWrapperImageProcessor.__name__
    else:
        processor_for(config.backbone_args["processor"], transform, geometry).save_pretrained(folder)
    with without_bar():
        saved.save_pretrained(folder, state_dict=separate(weights.state_dict()))
    return saved


def as_published(model: DebiasedImageClassifier) -> PreTrainedModel | None:
    """The same classifier in the format of its backbone; `None` if that format cannot express it."""
    config = model.config
    if config.backbone in ("mlp", FEATURES) or config.num_encoders != 1 or config.head_hidden is not None:
        return None
    names = [config.id2label[number] for number in range(config.num_labels)]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    network: Any
    encoder: Any = model.encoder
    if config.backbone == TRANSFORMERS:
        published = network = transformers_classifier(config.backbone_args["classifier"], **labels)
        encoder, head = encoder.network, config.backbone_args["head"]
    else:
        published = TimmWrapperForImageClassification(
            TimmWrapperConfig(architecture=config.backbone, model_args=config.timm_arguments(), **labels)
        )
        network = published.timm_model
        head = network.pretrained_cfg.get("classifier")
    wanted = network.state_dict()
    weights = {name: value.cpu() for name, value in encoder.state_dict().items()}
    weights |= {f"{head}.{name}": value.cpu() for name, value in model.classifier.state_dict().items()}
    if weights.keys() != wanted.keys():
        return None
    # Some heads are 1x1 convolutions.
    weights[f"{head}.weight"] = weights[f"{head}.weight"].reshape(wanted[f"{head}.weight"].shape)
    network.load_state_dict(weights)
    return published.eval()


def load_classifier(name: str, of_vectors: bool | None = False) -> tuple[PreTrainedModel, Any, Geometry]:
    """Opens a published classifier.

    Args:
        name (`str`): Folder or Hub id of an image classification model.
        of_vectors (`bool`, *optional*, defaults to `False`): Whether its inputs must be vectors, as published by runs
            with `--feature_column`. `None` accepts both.

    Returns:
        The model in evaluation mode, the transform of its batches, and the [`Geometry`] that resizes and crops images
        before; the transform of vectors changes nothing.

    Raises:
        `BiasEnsembleError`: If there is no image classifier of that name, its inputs are of the other kind, or its
            preprocessing is not supported.
    """
    try:
        model = AutoModelForImageClassification.from_pretrained(name, dtype="float32")
        cfg = getattr(model.config, "pretrained_cfg", None)
        width = model.config.backbone_args["width"] if getattr(model.config, "backbone", None) == FEATURES else 0
        wanted = timm_preprocessing(cfg) if cfg else {}
        if not width and not cfg:
            wanted = preprocessing_of(AutoImageProcessor.from_pretrained(name))
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise BiasEnsembleError(
            f"--model {name}: expected a folder or Hub id with an image classifier, found none that opens "
            f"({reason_of(error, 300)})"
        ) from error
    if of_vectors not in (None, bool(width)):
        vectors = f"vectors of {width} numbers (--feature_column)" if width else "the vectors of --feature_column"
        expected, found = ("images", vectors) if width else (vectors, "images")
        raise BiasEnsembleError(f"--model {name}: expected a classifier of {expected}, found one of {found}")
    if width:
        return model.eval(), FeatureTransform.unchanged(width), Geometry(model.config.image_size)
    unknown = [key for key, value in wanted.items() if value is None]
    if unknown:
        raise BiasEnsembleError(
            f"--model {name}: expected square images that are squashed or cropped at the centre, found another "
            f"{' and '.join(unknown)}; use transformers or timm for this model"
        )
    return model.eval(), transform_of(wanted), Geometry.of_options(wanted)
