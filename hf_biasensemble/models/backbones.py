"""Resolves the name of a backbone to an architecture of timm or transformers, its arguments and its preprocessing."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import parse_model_name, resolve_model_input_args
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
from transformers.utils import logging

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.models.modeling_debiased import (
    FEATURES,
    TRANSFORMERS,
    DebiasedImageClassifier,
    DebiasedImageClassifierConfig,
)

# Saved models bring their modeling file for users without this package; with it, no trust_remote_code is needed.
DebiasedImageClassifierConfig.register_for_auto_class()
DebiasedImageClassifier.register_for_auto_class("AutoModelForImageClassification")
AutoConfig.register(DebiasedImageClassifierConfig.model_type, DebiasedImageClassifierConfig, exist_ok=True)
AutoModelForImageClassification.register(DebiasedImageClassifierConfig, DebiasedImageClassifier, exist_ok=True)

_LABELS = 4099  # a width that no other layer has
_NOT_ARCHITECTURE = (
    *("id2label", "label2id", "problem_type", "dtype", "auto_map", "transformers_version", "_name_or_path"),
    *("pretrained_cfg", "image_processor_type"),
)
"""Keys of a configuration that do not describe the architecture."""


class Source(NamedTuple):
    """A resolved backbone. `architecture` is a timm model, `"mlp"`, `"features"` or `"transformers"`; `cfg` is timm's
    `pretrained_cfg`, `None` for a plain timm name and for most classifiers of transformers."""

    architecture: str
    arguments: dict[str, Any]
    cfg: dict[str, Any] | None = None


def source_of(model_args: ModelArguments) -> Source:
    """Resolves the backbone of these arguments; the result does not depend on any folder."""
    name, given = model_args.backbone, model_args.timm_arguments()
    if not is_checkpoint(name):
        with timm_errors_named(model_args):
            architecture, arguments, cfg = (name, {}, None) if parse_model_name(name)[0] is None else _of_timm(name)
        return Source(architecture, {**arguments, **given}, cfg)
    file = Path(name) / "config.json"
    changed = file.stat().st_mtime_ns if file.exists() else 0
    return _of_checkpoint(name, model_args.backbone_args, changed)


def from_scratch(model_args: ModelArguments, **changes: Any) -> ModelArguments:
    """The same network with a linear head, trained as a whole from initial weights, and with these changes."""
    own: dict[str, Any] = {"pretrained": False, "pretrained_weights": None, "pretrained_weights_sha256": None}
    own |= {"init_from": None, "freeze_backbone": False, "train_layers": None, "head": "linear"}
    return replace(model_args, **own | changes)


def is_checkpoint(backbone: str) -> bool:
    """Whether this is the folder or Hub id of an image classifier that transformers opens, not a timm model."""
    if re.match(r"[a-z-]+:", backbone) or backbone in ("mlp", FEATURES, TRANSFORMERS):
        return False
    return "/" in backbone or (Path(backbone).is_dir() and not timm.is_model(backbone))


@contextmanager
def timm_errors_named(model_args: ModelArguments) -> Iterator[None]:
    """Turns any error that timm or transformers raise for a backbone or its arguments into a `BiasEnsembleError`."""
    try:
        yield
    except BiasEnsembleError:
        raise
    except Exception as error:  # every network raises its own types for arguments that it does not accept
        name, near = model_args.backbone, ""
        given = f" with --backbone_args {model_args.timm_arguments()}" if model_args.backbone_args else ""
        reason = reason_of(error, 300)
        if str(error) and not isinstance(error, (RuntimeError, TypeError)):
            reason = f"{type(error).__name__} {reason}"
        if not is_checkpoint(name):
            similar = timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]
            near = f"; timm models with a similar name: {', '.join(similar) or 'none'}"
        raise BiasEnsembleError(f"--backbone {name}{given}: {reason}{near}") from error


@cache
def _of_timm(name: str) -> Source:
    """A backbone that timm saved in a folder (`local-dir:`) or on the Hub (`hf-hub:`)."""
    arguments = resolve_model_input_args(name)
    architecture, cfg = arguments.pop("model_name"), arguments.pop("pretrained_cfg")
    for unneeded in ("pretrained_model_args", "num_classes"):
        arguments.pop(unneeded, None)
    if cfg.get("fixed_input_size"):
        arguments.setdefault("img_size", cfg["input_size"][-1])
    return Source(architecture, arguments, cfg)


@cache
def _of_checkpoint(name: str, backbone_args: str | None, changed: int) -> Source:
    given = json.loads(backbone_args or "{}")
    try:
        config, unused = AutoConfig.from_pretrained(name, return_unused_kwargs=True, trust_remote_code=False, **given)
    except (OSError, ValueError) as error:
        raise BiasEnsembleError(
            f"--backbone {name}: expected mlp, the name of a timm model, or the folder or Hub id of an image "
            f"classifier, found none that opens ({reason_of(error, 200)}); prefix models saved by timm "
            "with hf-hub: or local-dir:"
        ) from error
    cfg = getattr(config, "pretrained_cfg", None)
    if config.model_type == "timm_wrapper":
        arguments = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}
        return Source(config.architecture, {**arguments, **given}, cfg)
    if unused:
        raise BiasEnsembleError(
            f"--backbone_args: expected options of the configuration of {name}, found {', '.join(unused)}"
        )
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise BiasEnsembleError(
            f"--backbone {name}: expected an architecture with an image classifier in transformers, found "
            f"{config.model_type}"
        )
    config.architectures = config.architectures or []
    options = json.loads(config.to_json_string(use_diff=True)) | {"model_type": config.model_type}
    classifier = {key: value for key, value in options.items() if key not in _NOT_ARCHITECTURE}
    try:
        processor = None if cfg else AutoImageProcessor.from_pretrained(name, trust_remote_code=False).to_dict()
    except (OSError, ValueError, ImportError):
        processor = None  # the user can give preprocessing options instead
    arguments = {"classifier": classifier, "head": _head_of(config, name), "processor": processor}
    return Source(TRANSFORMERS, arguments, cfg)


def _head_of(config: PreTrainedConfig, name: str) -> str:
    """Name of the only layer that computes the logits, linear or a 1x1 convolution."""
    if config.model_type == DebiasedImageClassifierConfig.model_type:
        return "classifier"
    config = deepcopy(config)
    config.num_labels = _LABELS
    with torch.device("meta"):
        network = AutoModelForImageClassification.from_config(config)
    heads = [
        layer
        for layer, module in network.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == _LABELS)
        or (isinstance(module, nn.Conv2d) and module.out_channels == _LABELS and module.kernel_size == (1, 1))
    ]
    if len(heads) != 1:
        raise BiasEnsembleError(
            f"--backbone {name}: expected an image classifier with one last layer, found "
            f"{type(network).__name__} with {', '.join(heads) or 'none'}; use another architecture"
        )
    return heads[0]


@contextmanager
def without_bar(warnings: bool = True) -> Iterator[None]:
    """Hides transformers' progress bars for reading and writing weights; `warnings=False` hides warnings, too."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(level if warnings else logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
