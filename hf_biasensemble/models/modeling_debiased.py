"""Configuration and model of published classifiers.

This file is copied beside the weights, so it imports nothing else of the package: `from_pretrained(repo,
trust_remote_code=True)` works without it.
"""

import timm
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class DebiasedImageClassifierConfig(PreTrainedConfig):
    """Configuration of [`DebiasedImageClassifier`].

    Attributes:
        backbone (`str`, *optional*, defaults to `"mlp"`):
            `"mlp"` (the Coloured MNIST network of the paper), the name of any timm model with pooled features,
            `"transformers"`, or `"features"` for vectors instead of images.
        backbone_args (`dict`, *optional*):
            Further arguments of `timm.create_model`, or those of [`TransformersEncoder`] or [`FeatureLayer`]. Not used
            by the MLP.
        hidden_sizes (`list[int]`, *optional*, defaults to `[100, 100, 16]`):
            Layer widths of the MLP, the last one of its features.
        num_encoders (`int`, *optional*, defaults to 1):
            1, or 2 for DisEnt: an intrinsic and a bias encoder.
        image_size (`int`, *optional*, defaults to 28):
            Height and width of the input in pixels; the MLP takes no other size.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the input.
        head_hidden (`int`, *optional*):
            Width of a hidden layer with a ReLU between backbone and classifier; none by default.
    """

    model_type = "debiased_image_classifier"

    backbone: str = "mlp"
    backbone_args: dict | None = None
    hidden_sizes: list | None = None
    num_encoders: int = 1
    image_size: int = 28
    num_channels: int = 3
    head_hidden: int | None = None

    def timm_arguments(self) -> dict:
        """Arguments of `timm.create_model` other than name and head."""
        return {"in_chans": self.num_channels, **(self.backbone_args or {})}


class MlpEncoder(nn.Module):
    """Linear layers, each with a ReLU, on flattened images: (B, C, H, W) -> (B, hidden_sizes[-1])."""

    def __init__(self, config: DebiasedImageClassifierConfig):
        super().__init__()
        sizes = [config.num_channels * config.image_size**2, *(config.hidden_sizes or (100, 100, 16))]
        self.num_features = sizes[-1]
        self.layers = nn.Sequential()
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            self.layers.append(nn.Linear(inputs, outputs))
            self.layers.append(nn.ReLU())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.layers(pixel_values.flatten(1))


class FeatureLayer(nn.Module):
    """A hidden layer with a ReLU, (B, width) -> (B, hidden), or the identity."""

    def __init__(self, width: int, hidden: int | None):
        super().__init__()
        self.num_features = hidden or width
        self.linear = nn.Linear(width, hidden) if hidden else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features if self.linear is None else self.linear(features).relu()


class BackboneWithLayer(nn.Module):
    """A backbone and a hidden layer: (B, C, H, W) -> (B, hidden)."""

    def __init__(self, backbone: nn.Module, hidden: int):
        super().__init__()
        self.backbone = backbone
        self.layer = FeatureLayer(feature_width(backbone), hidden)
        self.num_features = hidden

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.layer(self.backbone(pixel_values))


class TransformersEncoder(nn.Module):
    """An image classifier of transformers without its last layer: (B, C, H, W) -> (B, num_features).

    Args:
        classifier (`dict`): Its configuration, without labels.
        head (`str`): Name of its last layer, linear or a 1x1 convolution.
        processor (`dict`, *optional*): Its image processor; not used here.
    """

    def __init__(self, classifier: dict, head: str, processor: dict | None = None):
        super().__init__()
        self.network = transformers_classifier(classifier)
        layer = self.network.get_submodule(head)
        self.num_features = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        self.network.set_submodule(head, nn.Flatten())  # a convolution's input is (B, C, 1, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=pixel_values).logits


def transformers_classifier(classifier: dict, **labels: dict) -> PreTrainedModel:
    """An image classifier of transformers with initial weights, from its configuration, `id2label` and `label2id`."""
    if classifier["model_type"] == DebiasedImageClassifierConfig.model_type:  # may not be registered
        return DebiasedImageClassifier(DebiasedImageClassifierConfig(**classifier, **labels))
    return AutoModelForImageClassification.from_config(AutoConfig.for_model(**classifier, **labels))


TRANSFORMERS = "transformers"
"""The `backbone` of classifiers with a [`TransformersEncoder`], built from `backbone_args`."""
FEATURES = "features"
"""The `backbone` of classifiers of vectors; `backbone_args` are those of [`FeatureLayer`]."""


def build_encoder(config: DebiasedImageClassifierConfig) -> nn.Module:
    """Builds a network from images (B, C, H, W) to pooled features (B, num_features)."""
    if config.backbone == "mlp":
        return MlpEncoder(config)
    if config.backbone == FEATURES:
        return FeatureLayer(**(config.backbone_args or {}))
    if config.backbone == TRANSFORMERS:
        backbone = TransformersEncoder(**(config.backbone_args or {}))
    else:
        backbone = timm.create_model(config.backbone, pretrained=False, num_classes=0, **config.timm_arguments())
    return backbone if config.head_hidden is None else BackboneWithLayer(backbone, config.head_hidden)


def feature_width(encoder: nn.Module) -> int:
    """Width of the encoder's features, 0 if unknown. Some timm families (MobileNetV3, MambaOut) have a layer after
    pooling that changes the width."""
    return getattr(encoder, "head_hidden_size", 0) or getattr(encoder, "num_features", 0)


class DebiasedImageClassifier(PreTrainedModel):
    """An image classifier with one encoder, or with an intrinsic and a bias encoder, whose features are concatenated
    (DisEnt, https://huggingface.co/papers/2107.01372, section 3)."""

    config_class = DebiasedImageClassifierConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False

    def __init__(self, config: DebiasedImageClassifierConfig):
        super().__init__(config)
        self.encoder = build_encoder(config)
        self.bias_encoder = build_encoder(config) if config.num_encoders == 2 else None
        self.classifier = nn.Linear(feature_width(self.encoder) * config.num_encoders, config.num_labels)
        self.post_init()

    def encoders(self) -> list[nn.Module]:
        """The only encoder, or the intrinsic and the bias encoder."""
        return [encoder for encoder in (self.encoder, self.bias_encoder) if encoder is not None]

    def train(self, mode: bool = True) -> "DebiasedImageClassifier":
        # Frozen batch normalisation must keep its running statistics; a fully frozen encoder has no dropout, either.
        super().train(mode)
        for encoder in self.encoders() if mode else []:
            trained = [parameter.requires_grad for parameter in encoder.parameters()]
            if not any(trained):
                encoder.eval()
            elif not all(trained):
                for module in encoder.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.train(any(parameter.requires_grad for parameter in module.parameters()))
        return self

    def init_weights(self):
        pass  # keeps the initialisation of torch and timm

    def _init_weights(self, module):
        # `from_pretrained` calls this for tensors that a checkpoint lacks: a new head, and buffers that are never
        # saved, which are uninitialised until timm's own code fills them.
        super()._init_weights(module)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput:
        """Computes logits (B, K) and, given labels, the mean cross entropy.

        Args:
            pixel_values (`torch.Tensor` of shape (B, C, H, W)): Normalised images, or vectors (B, D).
            labels (`torch.Tensor` of shape (B,), *optional*): Classes.
        """
        features = [encoder(pixel_values) for encoder in self.encoders()]
        logits = self.classifier(features[0] if len(features) == 1 else torch.cat(features, dim=1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
