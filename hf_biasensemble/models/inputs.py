"""Inputs of the networks of a run: images, their features from a frozen backbone, or vectors of the dataset."""

import json
from dataclasses import dataclass, replace
from typing import Any

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments
from hf_biasensemble.data.batches.device_pixels import with_pixels_on
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_geometry, image_transform
from hf_biasensemble.data.store.features import Features, FeatureTransform
from hf_biasensemble.internal.processes import print_once
from hf_biasensemble.models.export import save_classifier
from hf_biasensemble.models.frozen import FrozenBackbone, head_of_vectors
from hf_biasensemble.models.modeling_debiased import FEATURES, DebiasedImageClassifier


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of the networks of a run.

    Attributes:
        image_args: The arguments of the run: preprocessing of images, and the network that reads them.
        images: Decoded images, or vectors, by split, including `train`.
        encoded: Splits with `"final"` and, if available, `"early"` features; `"final"` are the images themselves if
            the whole network is trained.
        member_features: The kind that members read.
        backbone: The pretrained backbone that computed the features, or `None`.
        identity: Everything that features of training images depend on; empty without features.
        image_transform: Augments and normalises batches of images.
    """

    image_args: ModelArguments
    images: dict[str, ImageSplit]
    encoded: dict[str, dict[str, ImageSplit]]
    member_features: str
    backbone: FrozenBackbone | None
    identity: dict[str, Any]
    image_transform: ImageTransform

    @classmethod
    def of_run(
        cls,
        model_args: ModelArguments,
        data_args: DataArguments,
        args: DebiasingArguments,
        images: dict[str, ImageSplit],
        member_features: str = "final",
    ) -> "Inputs":
        """Encodes the images if the backbone is frozen or members read features of early layers, as they are before
        training, and moves inputs to the device that `--pixels_on` names. Call `check_backbone` first."""
        backbone, identity, encoded = None, {}, {"final": images}
        transform = image_transform(model_args, args.augmentation, args.color_jitter)
        if model_args.freeze_backbone or member_features == "early":
            backbone = FrozenBackbone.of(model_args, transform)
            if member_features not in backbone.kinds:
                print_once(f"{model_args.backbone} gives no outputs of early layers, so members see final features")
                member_features = "final"
            encoded = backbone.encode(images, data_args, args.device)
            if not model_args.freeze_backbone:
                encoded["final"] = images
            identity = backbone.identity | backbone.views_of_training_images(data_args.split_seed)
            identity["of_members"] = member_features
        encoded = {kind: with_pixels_on(args.pixels_on, args.device, splits) for kind, splits in encoded.items()}
        return cls(model_args, images, encoded, member_features, backbone, identity, transform)

    @property
    def splits(self) -> dict[str, ImageSplit]:
        """Inputs of classifiers, for training and evaluation."""
        return self.encoded["final"]

    @property
    def member_splits(self) -> dict[str, ImageSplit]:
        """Inputs of members."""
        return self.encoded[self.member_features]

    @property
    def network_args(self) -> ModelArguments:
        """The arguments of networks on `splits`."""
        return self.backbone.heads() if self.backbone and self.image_args.freeze_backbone else self.image_args

    @property
    def member_args(self) -> ModelArguments:
        """The arguments of networks on `member_splits`."""
        return self.image_args if self.backbone is None else self.backbone.heads(self.member_features)

    @property
    def transform(self) -> ImageTransform | FeatureTransform:
        """The training transform for batches of `splits`."""
        pixels = self.splits["train"].pixels
        return pixels.transform() if isinstance(pixels, Features) else self.image_transform

    def classifier_of_images(self, trained: DebiasedImageClassifier) -> DebiasedImageClassifier:
        """The classifier to publish, from one trained on `splits`."""
        transform = self.transform
        if not isinstance(transform, FeatureTransform):
            return trained
        return self.backbone.with_head(trained, transform) if self.backbone else head_of_vectors(trained, transform)

    def publish(self, trained: DebiasedImageClassifier, folder: str) -> None:
        """Saves a classifier trained on `splits` as a classifier of images."""
        geometry = image_geometry(self.image_args)
        save_classifier(self.classifier_of_images(trained), self.image_transform, folder, geometry)


def with_width(model_args: ModelArguments, splits: dict[str, ImageSplit]) -> ModelArguments:
    """Adds the width of the splits' vectors to the arguments, if networks read vectors instead of images."""
    if model_args.backbone != FEATURES:
        return model_args
    hidden = model_args.head_hidden if model_args.head == "mlp" else None
    widths = {"width": splits["train"].pixels.shape[-1], "hidden": hidden}
    return replace(model_args, backbone_args=json.dumps(widths))
