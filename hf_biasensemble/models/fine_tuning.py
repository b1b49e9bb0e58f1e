"""Layers to train of a pretrained backbone, and their learning rate."""

import re
from itertools import groupby
from typing import Any

from timm.models import group_parameters
from torch import nn

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier

_UP_TO_A_NUMBER: Any = re.compile(r"((.*?\.)??\d+\.)?")


def layers_of(encoder: Any) -> list[list[str]]:
    """Names of the encoder's parameters by layer, from the image to the features: the stem, each stage or transformer
    block, and the rest. Without timm's grouping, the first number in a name separates layers."""
    if hasattr(encoder, "group_matcher"):
        groups = group_parameters(encoder, encoder.group_matcher(coarse=True))
        return [names for _, names in sorted(groups.items())]
    names = [name for name, _ in encoder.named_parameters()]
    return [list(layer) for _, layer in groupby(names, key=lambda name: _UP_TO_A_NUMBER.match(name)[0])]


def freeze_first_layers(encoder: nn.Module, train_layers: int | None) -> None:
    """Freezes all but the last `train_layers` layers; with `None`, nothing."""
    if train_layers is None:
        return
    layers = layers_of(encoder)
    if train_layers > len(layers):
        raise BiasEnsembleError(
            f"--train_layers: expected at most {len(layers)}, as many as the backbone has, found {train_layers}; "
            "leave it out to train all of them"
        )
    parameters = dict(encoder.named_parameters())
    for names in layers[: len(layers) - train_layers]:
        for name in names:
            parameters[name].requires_grad_(False)


def parameter_groups(model: nn.Module, backbone_learning_rate: float | None) -> list[Any]:
    """The trainable parameters, for an optimiser; those of encoders form a second group if they have their own
    learning rate."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if backbone_learning_rate is None:
        return trained
    classifiers = [module for module in model.modules() if isinstance(module, DebiasedImageClassifier)]
    encoders = nn.ModuleList(encoder for classifier in classifiers for encoder in classifier.encoders())
    of_encoders = set(encoders.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter not in of_encoders]},
        {"params": [parameter for parameter in trained if parameter in of_encoders], "lr": backbone_learning_rate},
    ]
    return [group for group in groups if group["params"]]
