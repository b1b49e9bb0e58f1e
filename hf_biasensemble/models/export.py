"""Saving a classifier so that `from_pretrained` opens it, and opening it with its preprocessing.

A single-encoder classifier becomes what its backbone came as, which transformers load without our code: a
model of transformers with an image processor, or `timm_wrapper`, which timm opens too. Anything else is saved with its
modeling file beside it, and names the image processor of `timm_wrapper` in `config.json`: as in training, that resizes
and crops with PIL and computes `(pixel / 255 - mean) / std` in that order.
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
from hf_biasensemble.internal.errors import BiasEnsembleError
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
    """Writes config, weights (safetensors), preprocessing and, where needed, the modeling file.

    Args:
        model (`DebiasedImageClassifier`): The trained classifier.
        transform (`ImageTransform`): The preprocessing it was trained with; its augmentation is not saved.
        folder (`str` or `Path`): Where to; made if missing.
        geometry (`Geometry`, *optional*): How its images were resized and cropped; by default, squashed to the
            configuration's `image_size`.

    Returns:
        `PreTrainedModel`: What was written: the same as a model of transformers or timm, or the classifier itself.
    """
    config, geometry = model.config, geometry or Geometry(model.config.image_size)
    saved = as_published(model) or model
    weights: Any = saved
    if isinstance(saved, TimmWrapperForImageClassification):
        weights = saved.timm_model  # keys as timm has them, so that it opens them too
        as_timm_adapts = {key: weights.pretrained_cfg.get(key) for key in ("classifier", "first_conv")}
        saved.config.pretrained_cfg = pretrained_cfg_of(transform, geometry) | as_timm_adapts
    elif config.backbone == FEATURES:
        pass  # no images, so no preprocessing of them
    elif isinstance(saved, DebiasedImageClassifier):
        saved.config.pretrained_cfg = pretrained_cfg_of(transform, geometry)
        saved.config.image_processor_type = TimmWrapperImageProcessor.__name__
    else:
        processor_for(config.backbone_args["processor"], transform, geometry).save_pretrained(folder)
    with without_bar():
        saved.save_pretrained(folder, state_dict=separate(weights.state_dict()))
    return saved


def as_published(model: DebiasedImageClassifier) -> PreTrainedModel | None:
    """The same classifier as what its backbone came as, or `None` where that cannot express it."""
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
    # Some heads are convolutions of one pixel.
    weights[f"{head}.weight"] = weights[f"{head}.weight"].reshape(wanted[f"{head}.weight"].shape)
    network.load_state_dict(weights)
    return published.eval()


def load_classifier(name: str, of_vectors: bool | None = False) -> tuple[PreTrainedModel, Any, Geometry]:
    """Opens a published classifier.

    Args:
        name (`str`): Folder or Hub id of an image classification model.
        of_vectors (`bool`, *optional*, defaults to `False`): Whether it must be one of vectors, as runs with
            `--feature_column` publish; its preprocessing then changes nothing. `None`: either will do.

    Returns:
        The model in evaluation mode, its preprocessing on the device, and how images are resized and cropped before.

    Raises:
        `BiasEnsembleError`: If there is no image classifier of that name, or it needs preprocessing that the library
            does not support.
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
            f"({' '.join(str(error).split())[:300]})"
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
            f"--model {name}: expected square images that are squashed, or whose centre is cropped, found another "
            f"{' and '.join(unknown)}; use transformers or timm for this model"
        )
    return model.eval(), transform_of(wanted), Geometry.of_options(wanted)
