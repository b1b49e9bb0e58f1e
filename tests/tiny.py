"""Tiny image classifiers of transformers with random weights, in folders, as people have them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageClassification

_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]}
TINY: dict[str, dict[str, Any]] = {
    "vit": _VIT,
    "dinov2": {**_VIT, "mlp_ratio": 2},
    "deit": {**_VIT, "architectures": ["DeiTForImageClassification"]},
    "beit": _VIT,
    "siglip": {"vision_config": _VIT, "text_config": {**_VIT, "vocab_size": 32}},
    "clip": {"vision_config": _VIT, "text_config": {**_VIT, "vocab_size": 32}},
    "swin": {
        "image_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [1, 2],
        "num_heads": [1, 2],
    },
    "convnext": _STAGES,
    "resnet": {**_STAGES, "embedding_size": 8, "layer_type": "basic"},
    "mobilenet_v2": {"depth_multiplier": 0.1, "depth_divisible_by": 4, "min_depth": 4, "image_size": 32},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "image_size": 32, "hidden_dim": 128},
    "regnet": {**_STAGES, "embedding_size": 8, "groups_width": 4},
    "mobilevit": {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 32], "image_size": 32},
    "poolformer": {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]},
}
"""What makes each small."""


def saved_classifier(
    kind: str, folder: Path, class_names: tuple[str, ...] = ("cat", "dog", "owl"), size: int = 32, **changes: Any
) -> Path:
    """A classifier of this model type with the image processor of its kind, in a folder.

    Args:
        kind: Of `TINY`.
        folder: Where to.
        class_names: Its classes.
        size: Height and width of its input, in pixels.
        changes: Further options of the configuration.
    """
    torch.manual_seed(4)
    labels = {"id2label": dict(enumerate(class_names)), "label2id": {name: n for n, name in enumerate(class_names)}}
    config = AutoConfig.for_model(kind, **(TINY[kind] | changes), **labels)
    config.architectures = config.architectures or []
    model = AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(
        size={"height": size, "width": size}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]
    ).save_pretrained(folder)
    return folder
