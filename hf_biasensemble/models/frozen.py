"""A backbone that stays as it is: images become features once, heads are trained on these, and both are published."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hf_biasensemble.arguments import DataArguments, ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.feature_store import open_or_encode
from hf_biasensemble.data.store.features import Features, FeatureTransform
from hf_biasensemble.internal.processes import number_started
from hf_biasensemble.models.build import build_classifier, classifier_config
from hf_biasensemble.models.modeling_debiased import FEATURES, DebiasedImageClassifier, feature_width

ROWS_AT_ONCE = 1 << 12


def encode_splits(
    model_args: ModelArguments,
    data_args: DataArguments,
    splits: dict[str, ImageSplit],
    transform: ImageTransform,
    device: torch.device,
) -> tuple[ModelArguments, dict[str, ImageSplit]]:
    """The splits with features of the frozen backbone in place of pixels, and the arguments of networks on these.

    Args:
        model_args (`ModelArguments`): With `freeze_backbone`, and preprocessing settled.
        data_args (`DataArguments`): Says how much is kept in memory.
        splits (`dict[str, ImageSplit]`): Decoded images, `train` among them.
        transform (`ImageTransform`): Their preprocessing; its augmentation makes the further views of training images.
        device (`torch.device`): Where to encode.
    """
    config = classifier_config(model_args, splits["train"].class_names)
    encoder = frozen_backbone(model_args, splits["train"].class_names).to(device)
    views = model_args.feature_views if transform.augments else 0
    width = feature_width(encoder)
    architecture = f"{config.backbone} {json.dumps(config.timm_arguments(), sort_keys=True)}"
    found: dict[int, torch.Tensor] = {}
    for name in sorted(splits, key=lambda name: name != "train"):  # splits cut from train share its pixels
        pixels: Any = splits[name].pixels
        if id(pixels) not in found:
            of_train = views if name == "train" else 0
            found[id(pixels)] = open_or_encode(
                pixels,
                encoder,
                architecture,
                transform,
                of_train,
                data_args.split_seed,  # not that of the run: the views serve all seeds
                width,
                in_memory=lambda size: number_started() == 1 and size <= data_args.pixel_memory_bytes(),
                title=name,
            )
    train = splits["train"]
    mean, std = _mean_and_std(found[id(train.pixels)][:, 0], train.rows)
    fingerprint = train.fingerprint
    of_features = {
        name: replace(split, pixels=Features(found[id(split.pixels)], mean, std), source_fingerprint=fingerprint)
        for name, split in splits.items()
    }
    settings = {"width": width, "hidden": model_args.head_hidden if model_args.head == "mlp" else None}
    heads = replace(
        model_args,
        backbone=FEATURES,
        backbone_args=json.dumps(settings),
        pretrained=False,
        pretrained_weights=None,
        pretrained_weights_sha256=None,
        freeze_backbone=False,
        head="linear",
        crop_padding=0,
        horizontal_flip=False,
    )
    return heads, of_features


def _mean_and_std(features: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (D,), float32, of these rows of the features (N, D), a few at a time; 1 where a
    feature never changes."""

    def mean_of(values: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        parts = [values(features.index_select(0, some).double()).sum(dim=0) for some in rows.split(ROWS_AT_ONCE)]
        return torch.stack(parts).sum(dim=0) / len(rows)

    mean = mean_of(lambda some: some)
    std = mean_of(lambda some: (some - mean).square()).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()


def frozen_backbone(model_args: ModelArguments, class_names: list[str]) -> nn.Module:
    """The pretrained backbone of the arguments, without a classifier."""
    config = classifier_config(model_args, class_names)
    return build_classifier(config, model_args.pretrained, 0, model_args.pretrained_weights).encoder


def with_backbone(
    heads: DebiasedImageClassifier, model_args: ModelArguments, transform: FeatureTransform
) -> DebiasedImageClassifier:
    """The classifier of images: the frozen backbone and what was trained on its features, whose first layer also
    standardises them.

    Args:
        heads (`DebiasedImageClassifier`): A classifier of features.
        model_args (`ModelArguments`): Those of the run, whose backbone it is.
        transform (`FeatureTransform`): Says how features were standardised.
    """
    names = [heads.config.id2label[number] for number in range(heads.config.num_labels)]
    config = classifier_config(model_args, names, heads.config.num_encoders)
    if model_args.head == "mlp":
        config.head_hidden = model_args.head_hidden
    model = build_classifier(config, False, 0)
    plain = frozen_backbone(model_args, names)
    with torch.no_grad():
        for ours, theirs in zip(model.encoders(), heads.encoders(), strict=True):
            backbone: Any = ours if config.head_hidden is None else ours.backbone
            backbone.load_state_dict(plain.state_dict())
            if config.head_hidden is not None:
                layer: Any = ours.layer
                layer.load_state_dict(theirs.state_dict())
        model.classifier.load_state_dict(heads.classifier.state_dict())
        hidden: list[Any] = [] if config.head_hidden is None else list(model.encoders())
        first: list[Any] = [encoder.layer.linear for encoder in hidden] or [model.classifier]
        mean, std = transform.mean.to(torch.float64), transform.std.to(torch.float64)
        for layer in first:
            weight = layer.weight.double().cpu() / std
            layer.bias.copy_(layer.bias.double().cpu() - weight @ mean)
            layer.weight.copy_(weight)
    return model.eval()
