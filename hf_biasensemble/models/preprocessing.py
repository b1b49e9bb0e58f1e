"""Preprocessing of a pretrained backbone, and the hash of its weights file."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.arguments.model import DEFAULT_PREPROCESSING
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.backbones import source_of, timm_errors_named
from hf_biasensemble.models.modeling_debiased import TRANSFORMERS

_CROP_MODES = {"crop": "center", "squash": "squash"}
"""timm's `crop_mode` of each `resize_mode`."""


def with_preprocessing(model_args: ModelArguments) -> ModelArguments:
    """Fills in the open preprocessing options from timm or the backbone's image processor, and the hash of local
    weights, which must be the given one, if any."""
    folder = Path(model_args.backbone.removeprefix("local-dir:")).expanduser()
    if model_args.pretrained_weights is not None:
        model_args = _with_hash(model_args, [Path(model_args.pretrained_weights).expanduser()])
    elif model_args.pretrained and (files := sorted(folder.glob("*.safetensors"))):
        model_args = _with_hash(model_args, files)
    missing = model_args.open_preprocessing()
    if not missing:
        return model_args
    theirs = _preprocessing_of(model_args, missing)
    if model_args.image_scale != 1 and {"image_mean", "image_std"} & set(missing):
        raise BiasEnsembleError(
            f"--image_scale: expected 1 with the mean and standard deviation of {model_args.backbone}, found "
            f"{model_args.image_scale:g}; leave it out, or give --image_mean and --image_std"
        )
    return replace(model_args, **{name: theirs[name] for name in missing})


def timm_preprocessing(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing options from timm's `pretrained_cfg`; unsupported ones are `None`."""
    resolved = timm.data.resolve_data_config(dict(cfg), verbose=False)
    height, width = resolved["input_size"][-2:]
    return {
        "image_size": height if height == width else None,
        "image_mean": list(resolved["mean"]),
        "image_std": list(resolved["std"]),
        "interpolation": resolved["interpolation"],
        "crop_pct": resolved["crop_pct"],
        "resize_mode": {theirs: ours for ours, theirs in _CROP_MODES.items()}.get(resolved["crop_mode"]),
    }


def pretrained_cfg_of(transform: ImageTransform, geometry: Geometry) -> dict[str, Any]:
    """Normalisation and geometry as a `pretrained_cfg` of timm."""
    return {
        "mean": list(transform.image_mean),
        "std": list(transform.image_std),
        "input_size": [3, geometry.image_size, geometry.image_size],
        "fixed_input_size": False,
        "interpolation": geometry.interpolation,
        "crop_pct": geometry.crop_pct,
        "crop_mode": _CROP_MODES[geometry.resize_mode],
    }


def preprocessing_of(processor: Any) -> dict[str, Any]:
    """Preprocessing options from an image processor of transformers; unsupported ones are `None`.

    If an odd number of pixels is cropped, theirs may start one pixel earlier; if they resize tensors, pixels may be
    one grey level off.
    """
    size = dict(processor.size or {})
    edge = size.get("shortest_edge") or (size.get("height") if size.get("height") == size.get("width") else None)
    crops = getattr(processor, "do_center_crop", None)
    seen = dict(processor.crop_size).get("height") if crops else edge
    crop_pct = getattr(processor, "crop_pct", None) if "shortest_edge" in size else None
    squashes = "shortest_edge" not in size or bool(crop_pct and not crops and (edge or 0) >= 384)  # as ConvNeXt
    method = getattr(processor, "resample", None)
    normalises = getattr(processor, "do_normalize", True)
    mean, std = (processor.image_mean, processor.image_std) if normalises else ([0.0] * 3, [1.0] * 3)
    scale = 255 * processor.rescale_factor if getattr(processor, "do_rescale", True) else 255
    offset = 1 if getattr(processor, "rescale_offset", False) else 0
    twice = getattr(processor, "include_top", False)  # EfficientNet divides by the standard deviation twice
    if squashes or not crop_pct:  # the resized edge is rounded down
        crop_pct = min(1.0, seen / (edge + 0.5)) if seen and edge and seen != edge else 1.0
    options = {
        "image_size": seen,
        "image_mean": [(value + offset) / scale for value in mean],
        "image_std": [(value**2 if twice else value) / scale for value in std],
        "interpolation": "bilinear" if method is None else Image.Resampling(int(method)).name.lower(),
        "crop_pct": crop_pct,
        "resize_mode": "squash" if squashes else "crop",
    }
    return options | dict.fromkeys(_misfits(processor, options))


def _misfits(processor: Any, options: dict[str, Any]) -> list[str]:
    """Options that change an image by more than a few grey levels from the processor's output."""
    if options["image_size"] is None:
        return ["image_size"]
    across, down = np.meshgrid(np.linspace(0, 255, 400), np.linspace(0, 255, 300))
    image = Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))
    pixels = np.array(Geometry.of_options(options).resized(image)).transpose(2, 0, 1)
    ours = transform_of(options)(torch.from_numpy(pixels), training=False)
    theirs = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"])[0]
    allowed = 4 / 255 / min(options["image_std"])
    if ours.shape != theirs.shape:
        return ["image_size"]
    return [] if float((ours - theirs).abs().max()) <= allowed else ["image_mean", "image_std"]


def transform_of(options: Mapping[str, Any]) -> ImageTransform:
    """The batch transform of settled preprocessing options."""
    mean, std = tuple(options["image_mean"]), tuple(options["image_std"])
    return ImageTransform(mean, std, image_size=options["image_size"])


def processor_for(theirs: dict[str, Any] | None, transform: ImageTransform, geometry: Geometry) -> Any:
    """An image processor of transformers with the preprocessing of training: `theirs`, the backbone's own, if it does
    the same, otherwise a ViT processor."""
    if theirs:
        processor = getattr(transformers, theirs["image_processor_type"])(**theirs)
        options = preprocessing_of(processor)
        if None not in options.values() and Geometry.of_options(options) == geometry:
            same = transform_of(options)
            if (same.image_mean, same.image_std) == (transform.image_mean, transform.image_std):
                return processor
    size, seen = geometry.stored_size, geometry.image_size
    squashes = geometry.resize_mode == "squash"
    return transformers.ViTImageProcessor(
        size={"height": size, "width": size} if squashes else {"shortest_edge": size},
        do_center_crop=size != seen or not squashes,
        crop_size={"height": seen, "width": seen},
        resample=Image.Resampling[geometry.interpolation.upper()],
        image_mean=list(transform.image_mean),
        image_std=list(transform.image_std),
    )


def _preprocessing_of(model_args: ModelArguments, wanted: list[str]) -> dict[str, Any]:
    """The preprocessing according to timm or the backbone's image processor, with a value for all `wanted` options."""
    where = f"--backbone {model_args.backbone}"
    with timm_errors_named(model_args):
        architecture, arguments, cfg = source_of(model_args)
        processor = arguments.get("processor") if architecture == TRANSFORMERS else None
        if cfg is None and architecture != TRANSFORMERS:
            if not timm.is_model(architecture):
                raise RuntimeError(f"Unknown model ({architecture})")
            registered = timm.get_pretrained_cfg(architecture)
            cfg = registered.to_dict() if registered else None
        if processor:
            theirs = preprocessing_of(getattr(transformers, processor["image_processor_type"])(**processor))
        elif cfg:
            cfg = {**cfg, **(model_args.timm_arguments().get("pretrained_cfg_overlay") or {})}
            theirs = timm_preprocessing(cfg)
        else:
            theirs = DEFAULT_PREPROCESSING
            essential = [f"--{name}" for name in ("image_size", "image_mean", "image_std") if name in wanted]
            if essential:
                raise BiasEnsembleError(
                    f"{where}: expected the preprocessing of its pretrained weights, found nothing; give "
                    f"{', '.join(essential)}"
                )
    for name in wanted:
        if theirs[name] is None:
            in_timm = {"image_size": "input_size", "resize_mode": "crop_mode"}.get(name, "")
            found = processor["image_processor_type"] if processor else (cfg or {}).get(in_timm)
            raise BiasEnsembleError(
                f"{where}: expected pretrained weights for square images, cropped or squashed, found {found}; "
                f"give --{name}"
            )
    return theirs


def _with_hash(model_args: ModelArguments, files: list[Path]) -> ModelArguments:
    """The arguments with the SHA-256 of these files, which must be the given one, if any."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    found = digest.hexdigest()
    if model_args.pretrained_weights_sha256 not in (None, found):
        raise BiasEnsembleError(
            f"--pretrained_weights_sha256: expected weights {model_args.pretrained_weights_sha256}, found {found} in "
            f"{files[0]}; use the file of that run, or leave the option out"
        )
    return replace(model_args, pretrained_weights_sha256=found)
