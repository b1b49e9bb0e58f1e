"""Options of network and preprocessing."""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from transformers import PreTrainedConfig

from hf_biasensemble.arguments.options import (
    Allowed,
    NonNegativeInt,
    Options,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    one_of,
    option,
)
from hf_biasensemble.internal.errors import BiasEnsembleError, require

FEATURES = "features"
"""Backbone name for networks that read vectors."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
RESIZE_MODES = ("crop", "squash")
THREE = Allowed("three numbers", lambda values: len(values) == 3)
THREE_POSITIVE = Allowed("three numbers above 0", lambda values: len(values) == 3 and all(one > 0 for one in values))
DEFAULT_PREPROCESSING: dict[str, Any] = {
    "image_size": 28,
    "image_mean": [0.0, 0.0, 0.0],
    "image_std": [1.0, 1.0, 1.0],
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "resize_mode": "squash",
}
"""Defaults for a network trained from scratch; a pretrained one brings its own."""


@dataclass
class ModelArguments(Options):
    """Network and preprocessing.

    A pretrained backbone brings its own preprocessing: options left out are `None` until [`with_preprocessing`] fills
    them in. A network trained from scratch uses the library's defaults.
    """

    _argument_group_name: ClassVar[str] = "model"
    sways_no_vote: ClassVar[frozenset[str]] = frozenset({"init_from", "init_part", "pretrained_weights"})

    backbone: str = option(
        "mlp",
        "mlp, the name of a timm model with pooled features, or the folder or Hub id of an image classifier of "
        "transformers.",
    )
    backbone_args: str | None = option(
        None, "More arguments for timm.create_model or the transformers configuration, as JSON."
    )
    pretrained: bool = option(False, "Start from the pretrained weights of the backbone.")
    pretrained_weights: str | None = option(None, "Start from the timm weights in this file (safetensors or .pth).")
    init_from: str | None = option(
        None,
        "Initialise the published network from this classifier, a folder or Hub id; also the backbone if none is "
        "named. With freeze_backbone, repair it: keep its backbone and train its last layer again.",
    )
    init_part: Annotated[str, one_of("whole", "encoder", "head")] = option(
        "whole", "Which part to load: whole, encoder (with a new head) or head."
    )
    pretrained_weights_sha256: str | None = option(None, "Refuse pretrained_weights with another SHA-256.")
    freeze_backbone: bool = option(
        False, "Freeze the pretrained backbone: compute features once and train heads on them."
    )
    feature_views: NonNegativeInt = option(
        4,
        "With an augmentation and features of a pretrained backbone (freeze_backbone or member_features early): "
        "augmented views of each training image, besides the plain one.",
    )
    head: Annotated[str, one_of("linear", "mlp")] = option(
        "linear", "With freeze_backbone or feature_column: the head to train, linear or mlp (one hidden layer)."
    )
    head_hidden: PositiveInt = option(256, "Width of the hidden layer with head mlp.")
    train_layers: NonNegativeInt | None = option(
        None,
        "Train only the last N layers of the pretrained backbone and the classifier; 0: only the classifier. By "
        "default all.",
    )
    image_size: PositiveInt | None = option(
        None, "Height and width of the network input in pixels; by default the pretrained backbone's, else 28."
    )
    image_mean: Annotated[list[float] | None, THREE] = option(
        None, "Mean per channel, after division by 255 and image_scale; by default the pretrained backbone's, else 0."
    )
    image_std: Annotated[list[float] | None, THREE_POSITIVE] = option(
        None, "Standard deviation per channel, on the same scale; by default the pretrained backbone's, else 1."
    )
    interpolation: Annotated[str | None, one_of(*INTERPOLATIONS)] = option(
        None,
        f"Interpolation for resizing, one of {', '.join(INTERPOLATIONS)}; by default the pretrained backbone's, else "
        "bilinear.",
    )
    crop_pct: PositiveFraction | None = option(
        None, "Fraction of the resized side that the centre crop keeps; by default the pretrained backbone's, else 1."
    )
    resize_mode: Annotated[str | None, one_of(*RESIZE_MODES)] = option(
        None,
        "squash: resize both sides, ignoring the aspect ratio; crop: resize the shorter side and crop the centre; by "
        "default the pretrained backbone's, else squash.",
    )
    image_scale: PositiveFloat = option(1.0, "Divide pixels by this in addition to 255.")
    crop_padding: NonNegativeInt = option(0, "Pad training images by N pixels and crop at random; 0: off.")
    horizontal_flip: bool = option(False, "Flip training images horizontally at random.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.backbone = os.path.expanduser(self.backbone)
        self.init_from = os.path.expanduser(self.init_from or "") or None
        if self.init_from and self.freeze_backbone:
            own = self.backbone in ("mlp", self.init_from)
            require(own, "--backbone", "nothing with --init_from and --freeze_backbone", self.backbone)
            file = self.pretrained_weights
            require(file is None, "--pretrained_weights", "nothing with --init_from and --freeze_backbone", file)
            self.backbone, self.pretrained = self.init_from, True
        elif self.init_from and self.backbone == "mlp" and _is_a_backbone(self.init_from):
            self.backbone, self.pretrained = self.init_from, True
        require(self.backbone != "mlp" or not self.pretrained, "--pretrained", "a backbone with weights", "the MLP")
        if self.pretrained_weights is not None:
            require(self.backbone != "mlp", "--pretrained_weights", "a timm backbone", "the MLP")
            found = Path(self.pretrained_weights).expanduser().is_file()
            require(found, "--pretrained_weights", "a file with weights", self.pretrained_weights)
        elif self.pretrained_weights_sha256 is not None:
            require(self.pretrained, "--pretrained_weights_sha256", "a file of --pretrained_weights", "none")
        if self.train_layers is not None:
            expected, scratch = "--pretrained or --pretrained_weights with it", f"{self.backbone} from scratch"
            require(self.starts_pretrained, "--train_layers", expected, scratch)
        if self.freeze_backbone:
            scratch = "nothing to freeze: the MLP" if self.backbone == "mlp" else f"{self.backbone} from scratch"
            expected = "a pretrained backbone (--pretrained true, --pretrained_weights FILE or --init_from CLASSIFIER)"
            require(self.starts_pretrained, "--freeze_backbone", expected, scratch)
            require(self.train_layers is None, "--train_layers", "nothing with --freeze_backbone", self.train_layers)
        try:
            self.timm_arguments()
        except ValueError:
            require(False, "--backbone_args", 'a JSON object such as {"zero_init_last": false}', self.backbone_args)
        if not self.starts_pretrained:
            for name in self.open_preprocessing():
                value = DEFAULT_PREPROCESSING[name]
                setattr(self, name, list(value) if isinstance(value, list) else value)

    @property
    def starts_pretrained(self) -> bool:
        """Whether encoders start from pretrained weights, the backbone's own or a file's."""
        return self.pretrained or self.pretrained_weights is not None

    @property
    def on_features(self) -> bool:
        """Whether only heads are trained, on features of a frozen backbone or on the dataset's vectors."""
        return self.freeze_backbone or self.backbone == FEATURES

    def open_preprocessing(self) -> list[str]:
        """Preprocessing options that are still `None`."""
        return [name for name in DEFAULT_PREPROCESSING if getattr(self, name) is None]

    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing options; raises `BiasEnsembleError` before [`with_preprocessing`] has filled them in."""
        if self.open_preprocessing():
            raise BiasEnsembleError(
                f"expected {', '.join(f'--{name}' for name in self.open_preprocessing())} of the pretrained backbone "
                f"{self.backbone}, found nothing; call hf_biasensemble.models.preprocessing.with_preprocessing first"
            )
        return {name: getattr(self, name) for name in DEFAULT_PREPROCESSING}

    def timm_arguments(self) -> dict[str, Any]:
        """`backbone_args` as a dict."""
        arguments = json.loads(self.backbone_args or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("expected a JSON object")
        return arguments


def _is_a_backbone(classifier: str) -> bool:
    """Whether a published classifier can serve as a backbone; one with a modeling file, such as the MLP, cannot."""
    file = Path(classifier) / "config.json"
    kind = _model_type(classifier, file.stat().st_mtime_ns if file.exists() else 0)
    return kind not in (None, "debiased_image_classifier")


@cache
def _model_type(classifier: str, changed: int) -> str | None:
    try:
        return PreTrainedConfig.get_config_dict(classifier)[0].get("model_type")
    except OSError:  # reported when the classifier is opened
        return None
