"""Configuration and model that hf_biasensemble publishes.

This file is self-contained on purpose: it is copied beside the weights, so that `from_pretrained(repo,
trust_remote_code=True)` works where the package is not installed.
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
            `"mlp"` (the Coloured MNIST network of the paper), the name of any timm model with pooled features, or
            `"transformers"`.
        backbone_args (`dict`, *optional*):
            Further arguments of `timm.create_model`, or those of [`TransformersEncoder`]. Not used by the MLP.
        hidden_sizes (`list[int]`, *optional*, defaults to `[100, 100, 16]`):
            Layer widths of the MLP; the last one is the feature width.
        num_encoders (`int`, *optional*, defaults to 1):
            1, or 2 for DisEnt, where an intrinsic and a bias encoder feed one classifier.
        image_size (`int`, *optional*, defaults to 28):
            Height and width of the input in pixels. Fixed for the MLP.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the input.
        head_hidden (`int`, *optional*):
            Width of a hidden layer with a ReLU between the backbone's features and the classifier; none by default.
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
        """Arguments of `timm.create_model` besides name and head."""
        return {"in_chans": self.num_channels, **(self.backbone_args or {})}


class MlpEncoder(nn.Module):
    """Linear layers with a ReLU after each, on the flattened image: (B, C, H, W) -> (B, hidden_sizes[-1])."""

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
    """A hidden layer with a ReLU on features (B, width) -> (B, hidden), or nothing: (B, width)."""

    def __init__(self, width: int, hidden: int | None):
        super().__init__()
        self.num_features = hidden or width
        self.linear = nn.Linear(width, hidden) if hidden else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features if self.linear is None else self.linear(features).relu()


class BackboneWithLayer(nn.Module):
    """Images (B, C, H, W) through a backbone and a hidden layer: (B, hidden)."""

    def __init__(self, backbone: nn.Module, hidden: int):
        super().__init__()
        self.backbone = backbone
        self.layer = FeatureLayer(feature_width(backbone), hidden)
        self.num_features = hidden

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.layer(self.backbone(pixel_values))


class TransformersEncoder(nn.Module):
    """Images (B, C, H, W) through an image classifier of transformers without its last layer: (B, num_features).

    Args:
        classifier (`dict`): Its configuration, without labels.
        head (`str`): Name of its last layer, linear or a convolution of one pixel.
        processor (`dict`, *optional*): The image processor that came with it. Not used here.
    """

    def __init__(self, classifier: dict, head: str, processor: dict | None = None):
        super().__init__()
        self.network = transformers_classifier(classifier)
        layer = self.network.get_submodule(head)
        self.num_features = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        self.network.set_submodule(head, nn.Flatten())  # of a convolution's input; one of a linear layer is flat

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=pixel_values).logits


def transformers_classifier(classifier: dict, **labels: dict) -> PreTrainedModel:
    """An image classifier of transformers with initial weights, from its configuration and `id2label`, `label2id`."""
    if classifier["model_type"] == DebiasedImageClassifierConfig.model_type:  # perhaps not registered
        return DebiasedImageClassifier(DebiasedImageClassifierConfig(**classifier, **labels))
    return AutoModelForImageClassification.from_config(AutoConfig.for_model(**classifier, **labels))


TRANSFORMERS = "transformers"
"""Stands for a backbone that is a [`TransformersEncoder`] of `backbone_args`."""
FEATURES = "features"
"""Stands for a backbone where a classifier reads the features of one instead of images; `backbone_args` has the
`width` of these and that of a `hidden` layer, or `None`."""


def build_encoder(config: DebiasedImageClassifierConfig) -> nn.Module:
    """Network from images (B, C, H, W) to pooled features (B, num_features)."""
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
    """Width of the encoder's features; 0 where it has no single one.

    Some timm families (MobileNetV3, MambaOut) have a layer after the pooling, which changes the width.
    """
    return getattr(encoder, "head_hidden_size", 0) or getattr(encoder, "num_features", 0)


class DebiasedImageClassifier(PreTrainedModel):
    """An image classifier with one encoder, or with an intrinsic and a bias encoder (DisEnt).

    With two encoders the classifier reads the concatenation of the intrinsic and the bias features (DisEnt,
    https://huggingface.co/papers/2107.01372, section 3).
    """

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
        """The encoder alone, or the intrinsic and the bias encoder."""
        return [encoder for encoder in (self.encoder, self.bias_encoder) if encoder is not None]

    def train(self, mode: bool = True) -> "DebiasedImageClassifier":
        # Layers whose weights stay must not change in their statistics either, which batch normalisation updates in
        # training mode; where a whole encoder stays, its features have no dropout.
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
        # A new model keeps the initialisation of torch and timm, as the published runs do.
        pass

    def _init_weights(self, module):
        # `from_pretrained` calls this for what a checkpoint lacks: the weights of a new head, and buffers that are
        # never saved, whose memory is uninitialised until timm's own code fills it.
        super()._init_weights(module)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values (`torch.Tensor` of shape (B, C, H, W)): Normalised images.
            labels (`torch.Tensor` of shape (B,), *optional*): Classes; when given, the mean cross entropy is returned.
        """
        features = [encoder(pixel_values) for encoder in self.encoders()]
        logits = self.classifier(features[0] if len(features) == 1 else torch.cat(features, dim=1))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
