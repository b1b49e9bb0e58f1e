"""A backbone that stays as it is: images become features once, heads are trained on these, and both are published."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from hf_biasensemble.arguments import DataArguments, ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_geometry
from hf_biasensemble.data.store.feature_store import open_or_encode
from hf_biasensemble.data.store.features import Features, FeatureTransform
from hf_biasensemble.internal.processes import number_started
from hf_biasensemble.models.build import build_classifier, classifier_config
from hf_biasensemble.models.modeling_debiased import FEATURES, DebiasedImageClassifier, feature_width

ROWS_AT_ONCE = 1 << 12
LIBRARIES = ("timm", "torch", "transformers")
"""Their code shapes the features."""


@dataclass(frozen=True, eq=False)
class FrozenBackbone:
    """A pretrained backbone, with all that its features depend on.

    Attributes:
        model_args: Its architecture, and how images are resized.
        transform: From decoded images to its input. Its augmentation makes the further views of training images.
        network: Gives features (B, D) of normalised images.
    """

    model_args: ModelArguments
    transform: ImageTransform
    network: nn.Module

    @classmethod
    def of(cls, model_args: ModelArguments, transform: ImageTransform) -> "FrozenBackbone":
        """The one that the arguments name, with its weights."""
        config = classifier_config(model_args, [])
        network = build_classifier(config, model_args.pretrained, 0, model_args.pretrained_weights).encoder
        return cls(model_args, transform, network.eval())

    @cached_property
    def identity(self) -> dict[str, str]:
        """What the features of an image that is not augmented depend on, in words."""
        config = classifier_config(self.model_args, [])
        seen = {"mean": self.transform.image_mean, "std": self.transform.image_std}
        return {
            "architecture": f"{config.backbone} {json.dumps(config.timm_arguments(), sort_keys=True)}",
            "weights": hash_of_weights(self.network.state_dict()),
            "preprocessing": json.dumps(vars(image_geometry(self.model_args)) | seen, sort_keys=True),
            "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        }

    def views_of_training_images(self, seed: int) -> dict[str, Any]:
        """What the further views of training images depend on."""
        count = self.model_args.feature_views if self.transform.augments else 0
        names = ("augmentation", "color_jitter", "crop_padding", "horizontal_flip")
        return {"views": count, **{name: getattr(self.transform, name) for name in names if count}} | (
            {"seed": seed} if count else {}
        )

    def heads(self) -> ModelArguments:
        """The arguments of networks on the features."""
        hidden = self.model_args.head_hidden if self.model_args.head == "mlp" else None
        return replace(
            self.model_args,
            backbone=FEATURES,
            backbone_args=json.dumps({"width": feature_width(self.network), "hidden": hidden}),
            pretrained=False,
            pretrained_weights=None,
            pretrained_weights_sha256=None,
            freeze_backbone=False,
            head="linear",
            crop_padding=0,
            horizontal_flip=False,
        )

    def encode(
        self, splits: dict[str, ImageSplit], data_args: DataArguments, device: torch.device
    ) -> dict[str, ImageSplit]:
        """The splits with features in place of pixels.

        Args:
            splits (`dict[str, ImageSplit]`): Decoded images, `train` among them.
            data_args (`DataArguments`): Says how much is kept in memory, and the seed of the views: not that of the
                run, so that they serve all seeds.
            device (`torch.device`): Where to encode.
        """
        views = self.views_of_training_images(data_args.split_seed)
        encoder = self.network.to(device)
        found: dict[int, torch.Tensor] = {}
        for name in sorted(splits, key=lambda name: name != "train"):  # splits cut from train share its pixels
            pixels: Any = splits[name].pixels
            if id(pixels) not in found:
                found[id(pixels)] = open_or_encode(
                    pixels,
                    encoder,
                    self.identity["architecture"],
                    self.transform,
                    views["views"] if name == "train" else 0,
                    data_args.split_seed,
                    feature_width(encoder),
                    in_memory=lambda size: number_started() == 1 and size <= data_args.pixel_memory_bytes(),
                    title=name,
                )
        train = splits["train"]
        mean, std = _mean_and_std(found[id(train.pixels)][:, 0], train.rows)
        fingerprint = train.fingerprint
        return {
            name: replace(split, pixels=Features(found[id(split.pixels)], mean, std), source_fingerprint=fingerprint)
            for name, split in splits.items()
        }

    def with_head(self, head: DebiasedImageClassifier, transform: FeatureTransform) -> DebiasedImageClassifier:
        """The classifier of images: the backbone and what was trained on its features, whose first layer also
        standardises them.

        Args:
            head (`DebiasedImageClassifier`): A classifier of features.
            transform (`FeatureTransform`): Says how features were standardised.
        """
        names = [head.config.id2label[number] for number in range(head.config.num_labels)]
        config = classifier_config(self.model_args, names, head.config.num_encoders)
        if self.model_args.head == "mlp":
            config.head_hidden = self.model_args.head_hidden
        model = build_classifier(config, False, 0)
        with torch.no_grad():
            for ours, theirs in zip(model.encoders(), head.encoders(), strict=True):
                backbone: Any = ours if config.head_hidden is None else ours.backbone
                backbone.load_state_dict(self.network.state_dict())
                if config.head_hidden is not None:
                    layer: Any = ours.layer
                    layer.load_state_dict(theirs.state_dict())
            model.classifier.load_state_dict(head.classifier.state_dict())
            hidden: list[Any] = [] if config.head_hidden is None else list(model.encoders())
            first: list[Any] = [encoder.layer.linear for encoder in hidden] or [model.classifier]
            mean, std = transform.mean.to(torch.float64), transform.std.to(torch.float64)
            for layer in first:
                weight = layer.weight.double().cpu() / std
                layer.bias.copy_(layer.bias.double().cpu() - weight @ mean)
                layer.weight.copy_(weight)
        return model.eval()


def hash_of_weights(tensors: dict[str, torch.Tensor]) -> str:
    """Hash of names and content, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _mean_and_std(features: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (D,), float32, of these rows of the features (N, D), a few at a time; 1 where a
    feature never changes."""

    def mean_of(values: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        parts = [values(features.index_select(0, some).double()).sum(dim=0) for some in rows.split(ROWS_AT_ONCE)]
        return torch.stack(parts).sum(dim=0) / len(rows)

    mean = mean_of(lambda some: some)
    std = mean_of(lambda some: (some - mean).square()).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()
