"""What the networks of a run see: its images, features of them from a frozen backbone, or vectors of the dataset."""

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
from hf_biasensemble.models.early_layers import check_early_layers
from hf_biasensemble.models.export import save_classifier
from hf_biasensemble.models.frozen import FrozenBackbone, head_of_vectors
from hf_biasensemble.models.modeling_debiased import FEATURES, DebiasedImageClassifier


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the networks of a run see, and how what is trained on it becomes a classifier of images.

    Attributes:
        image_args: The run's own arguments: how images are resized and normalised, and which network sees them.
        images: Decoded images, or vectors, by split, `train` among them.
        encoded: Splits with `"final"` features, and `"early"` ones if there are any, in place of the images; where the
            whole network is trained, the images as `"final"`.
        member_features: Which of these the members see.
        backbone: The pretrained backbone that made the features, or `None`.
        identity: What features of training images depend on; empty without them.
        image_transform: How batches of images are augmented and normalised.
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
        """Encodes the images if the backbone is frozen or members see early features, and brings what networks see to
        where `--pixels_on` says.

        Args:
            model_args (`ModelArguments`): With its preprocessing settled.
            data_args (`DataArguments`): Says how much is kept in memory.
            args (`DebiasingArguments`): Augmentation, device and `pixels_on`.
            images (`dict[str, ImageSplit]`): Decoded images by split, `train` among them.
            member_features (`str`, *optional*, defaults to `"final"`): What members are to see of a pretrained
                backbone, `"early"` or `"final"`; early layers give features as they are before training.

        Raises:
            `BiasEnsembleError`: If members are to see early layers of a network that is trained as a whole, and its
                backbone gives no outputs of them.
        """
        backbone, identity, encoded = None, {}, {"final": images}
        transform = image_transform(model_args, args.augmentation, args.color_jitter)
        if model_args.freeze_backbone or member_features == "early":
            backbone = FrozenBackbone.of(model_args, transform)
            if not model_args.freeze_backbone:
                check_early_layers(backbone.network, model_args.backbone)
            elif member_features not in backbone.kinds:
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
        """What classifiers are trained and evaluated on."""
        return self.encoded["final"]

    @property
    def member_splits(self) -> dict[str, ImageSplit]:
        """What members are trained on."""
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
        """How batches of `splits` are transformed while training."""
        pixels = self.splits["train"].pixels
        return pixels.transform() if isinstance(pixels, Features) else self.image_transform

    def classifier_of_images(self, trained: DebiasedImageClassifier) -> DebiasedImageClassifier:
        """The classifier to publish, from one that was trained on `splits`."""
        transform = self.transform
        if not isinstance(transform, FeatureTransform):
            return trained
        return self.backbone.with_head(trained, transform) if self.backbone else head_of_vectors(trained, transform)

    def publish(self, trained: DebiasedImageClassifier, folder: str) -> None:
        """Saves a classifier that was trained on `splits` as a classifier of images."""
        geometry = image_geometry(self.image_args)
        save_classifier(self.classifier_of_images(trained), self.image_transform, folder, geometry)


def with_width(model_args: ModelArguments, splits: dict[str, ImageSplit]) -> ModelArguments:
    """The arguments of networks on the vectors of these splits, if there are vectors in place of images."""
    if model_args.backbone != FEATURES:
        return model_args
    hidden = model_args.head_hidden if model_args.head == "mlp" else None
    widths = {"width": splits["train"].pixels.shape[-1], "hidden": hidden}
    return replace(model_args, backbone_args=json.dumps(widths))
