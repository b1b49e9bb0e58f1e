"""Which layers of a pretrained backbone are trained, and how fast."""

import re
from itertools import groupby
from typing import Any

from timm.models import group_parameters
from torch import nn

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier

_UP_TO_A_NUMBER: Any = re.compile(r"((.*?\.)??\d+\.)?")


def layers_of(encoder: Any) -> list[list[str]]:
    """Names of the encoder's parameters by layer, from the image to the features: the stem, each stage or
    transformer block, and what comes after. timm groups its own; else it is what comes before, with and after a number
    in the names."""
    if hasattr(encoder, "group_matcher"):
        groups = group_parameters(encoder, encoder.group_matcher(coarse=True))
        return [names for _, names in sorted(groups.items())]
    names = [name for name, _ in encoder.named_parameters()]
    return [list(layer) for _, layer in groupby(names, key=lambda name: _UP_TO_A_NUMBER.match(name)[0])]


def freeze_first_layers(encoder: nn.Module, train_layers: int | None) -> None:
    """Leaves only the last layers to be trained; 0: none, `None`: all.

    Raises:
        `BiasEnsembleError`: If the encoder has fewer layers.
    """
    if train_layers is None:
        return
    layers = layers_of(encoder)
    if train_layers > len(layers):
        raise BiasEnsembleError(
            f"--train_layers: expected at most {len(layers)}, as many as the backbone has, found {train_layers}; "
            "leave it out to train all"
        )
    parameters = dict(encoder.named_parameters())
    for names in layers[: len(layers) - train_layers]:
        for name in names:
            parameters[name].requires_grad_(False)


def parameter_groups(model: nn.Module, backbone_learning_rate: float | None) -> list[Any]:
    """What is trained of the model, for an optimiser: all parameters alike, or those of encoders in a second group, at
    a rate of their own."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if backbone_learning_rate is None:
        return trained
    classifiers = [module for module in model.modules() if isinstance(module, DebiasedImageClassifier)]
    encoders = [encoder for classifier in classifiers for encoder in classifier.encoders()]
    in_encoders = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if id(parameter) not in in_encoders]},
        {"params": [parameter for parameter in trained if id(parameter) in in_encoders], "lr": backbone_learning_rate},
    ]
    return [group for group in groups if group["params"]]
