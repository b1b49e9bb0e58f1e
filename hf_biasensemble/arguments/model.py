"""Options of network and preprocessing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hf_biasensemble.arguments.options import option, require


@dataclass
class ModelArguments:
    """Network and preprocessing."""

    _argument_group_name: ClassVar[str] = "model"
    sways_no_vote: ClassVar[frozenset[str]] = frozenset({"init_from", "init_part"})

    backbone: str = option("mlp", "mlp, or the name of a timm model with pooled features.")
    backbone_args: str | None = option(None, "Further arguments of timm.create_model, as JSON.")
    pretrained: bool = option(False, "Start from timm's pretrained weights.")
    pretrained_weights: str | None = option(None, "Start from this file (safetensors or .pth) of the timm backbone.")
    init_from: str | None = option(
        None, "Start what is published from the weights of this classifier: the folder of a run or a Hub id."
    )
    init_part: str = option("whole", "What of it: whole, encoder (with a new head) or head.")
    image_size: int = option(28, "Height and width of the network input in pixels.")
    image_mean: list[float] = option([0.0, 0.0, 0.0], "Mean per channel, of pixels divided by 255 and image_scale.")
    image_std: list[float] = option([1.0, 1.0, 1.0], "Standard deviation per channel, of the same.")
    image_scale: float = option(1.0, "Pixels are divided by this besides 255.")
    crop_padding: int = option(0, "Training images are padded by this many pixels and cropped at random; 0: not.")
    horizontal_flip: bool = option(False, "Training images are mirrored at random.")

    def __post_init__(self) -> None:
        require(self.image_size >= 1, "--image_size", "at least 1", self.image_size)
        require(self.image_scale > 0, "--image_scale", "above 0", self.image_scale)
        require(self.crop_padding >= 0, "--crop_padding", "0 or more", self.crop_padding)
        require(len(self.image_mean) == 3, "--image_mean", "three numbers", self.image_mean)
        require(
            len(self.image_std) == 3 and all(value > 0 for value in self.image_std),
            "--image_std",
            "three numbers above 0",
            self.image_std,
        )
        require(self.backbone != "mlp" or not self.pretrained, "--pretrained", "a timm backbone", "the MLP")
        if self.pretrained_weights is not None:
            require(self.backbone != "mlp", "--pretrained_weights", "a timm backbone", "the MLP")
            found = Path(self.pretrained_weights).expanduser().is_file()
            require(found, "--pretrained_weights", "a file with weights", self.pretrained_weights)
        require(
            self.init_part in ("whole", "encoder", "head"), "--init_part", "whole, encoder or head", self.init_part
        )
        try:
            self.timm_arguments()
        except ValueError:
            require(False, "--backbone_args", 'a JSON object such as {"zero_init_last": false}', self.backbone_args)

    def timm_arguments(self) -> dict[str, Any]:
        """`backbone_args` as a dict."""
        arguments = json.loads(self.backbone_args or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("expected a JSON object")
        return arguments
