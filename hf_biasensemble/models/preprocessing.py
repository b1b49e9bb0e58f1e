"""The preprocessing that a pretrained backbone brings along, and which file its weights are from."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.arguments.model import DEFAULT_PREPROCESSING
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifierConfig
from hf_biasensemble.models.timm_errors import timm_errors_named, timm_source

_BLOCK = 1 << 22  # bytes hashed at once
_RESIZE_MODES = {"center": "crop", "squash": "squash"}  # timm's words: ours
_CROP_MODES = {ours: theirs for theirs, ours in _RESIZE_MODES.items()}


def with_preprocessing(model_args: ModelArguments) -> ModelArguments:
    """The arguments with all options of preprocessing settled, and with the hash of the file of weights.

    What is given wins. Else a pretrained backbone has what its weights were trained with, as timm knows it.

    Args:
        model_args (`ModelArguments`): As given. Settled ones come back as they are.

    Raises:
        `BiasEnsembleError`: If timm does not know the backbone or how its weights want images, or if the file is not
            the one whose hash is given.
    """
    if model_args.pretrained_weights is not None:
        model_args = _with_hash(model_args, model_args.pretrained_weights)
    missing = model_args.open_preprocessing()
    if not missing:
        return model_args
    theirs = _preprocessing_of(model_args.backbone, model_args.timm_arguments(), missing)
    if model_args.image_scale != 1 and {"image_mean", "image_std"} & set(missing):
        raise BiasEnsembleError(
            f"--image_scale: expected 1 with the mean and standard deviation of {model_args.backbone}, found "
            f"{model_args.image_scale:g}; leave it out, or give --image_mean and --image_std"
        )
    return replace(model_args, **{name: theirs[name] for name in missing})


def timm_preprocessing(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Options of preprocessing from timm's `pretrained_cfg`; `None` for what the library cannot do."""
    resolved = timm.data.resolve_data_config(dict(cfg), verbose=False)
    height, width = resolved["input_size"][-2:]
    return {
        "image_size": height if height == width else None,
        "image_mean": list(resolved["mean"]),
        "image_std": list(resolved["std"]),
        "interpolation": resolved["interpolation"],
        "crop_pct": resolved["crop_pct"],
        "resize_mode": _RESIZE_MODES.get(resolved["crop_mode"]),
    }


def timm_geometry(geometry: Geometry) -> dict[str, Any]:
    """The geometry in timm's terms, for a `pretrained_cfg`."""
    return {
        "input_size": [3, geometry.image_size, geometry.image_size],
        "fixed_input_size": False,
        "interpolation": geometry.interpolation,
        "crop_pct": geometry.crop_pct,
        "crop_mode": _CROP_MODES[geometry.resize_mode],
    }


def _preprocessing_of(backbone: str, timm_arguments: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """What timm says of the backbone; of the options wanted none is missing."""
    config = DebiasedImageClassifierConfig(backbone=backbone, backbone_args=timm_arguments)
    with timm_errors_named(config):
        name, _, cfg = timm_source(backbone)
        if cfg is None:
            if not timm.is_model(name):
                raise RuntimeError(f"Unknown model ({name})")
            registered = timm.get_pretrained_cfg(name)
            cfg = registered.to_dict() if registered else {}
    cfg = {**cfg, **(timm_arguments.get("pretrained_cfg_overlay") or {})} if cfg else cfg
    where = f"--backbone {backbone}"
    if not cfg:
        essential = [name for name in ("image_size", "image_mean", "image_std") if name in wanted]
        if essential:
            raise BiasEnsembleError(
                f"{where}: expected timm to know how its pretrained weights want images, found nothing; give "
                f"{', '.join(f'--{name}' for name in essential)}"
            )
        return DEFAULT_PREPROCESSING
    theirs = timm_preprocessing(cfg)
    for name in wanted:
        if theirs[name] is None:
            found = cfg["input_size"] if name == "image_size" else cfg["crop_mode"]
            raise BiasEnsembleError(
                f"{where}: expected pretrained weights for square images, cropped or squashed, found {found}; "
                f"give --{name}"
            )
    return theirs


def _with_hash(model_args: ModelArguments, file: str) -> ModelArguments:
    """With the file's SHA-256, which must be the one asked for, if any."""
    digest = hashlib.sha256()
    with open(Path(file).expanduser(), "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    if model_args.pretrained_weights_sha256 not in (None, found):
        raise BiasEnsembleError(
            f"--pretrained_weights_sha256: expected weights {model_args.pretrained_weights_sha256}, found {found} in "
            f"{file}; use the file of that run, or leave the option out"
        )
    return replace(model_args, pretrained_weights_sha256=found)
