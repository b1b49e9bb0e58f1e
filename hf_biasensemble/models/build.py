"""Untrained networks from the settings, each from a seed of its own."""

from collections.abc import Sequence

import torch
from torch import nn

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.seeding import build_with_seed, derived_seed
from hf_biasensemble.models.backbones import source_of, timm_errors_named
from hf_biasensemble.models.early_layers import EarlyAndFinal, check_early_layers
from hf_biasensemble.models.fine_tuning import freeze_first_layers
from hf_biasensemble.models.modeling_debiased import (
    FEATURES,
    TRANSFORMERS,
    DebiasedImageClassifier,
    DebiasedImageClassifierConfig,
    build_encoder,
    feature_width,
)
from hf_biasensemble.models.pair import BiasedDebiasedPair, DisentangledPair, MemberEnsemble
from hf_biasensemble.models.weights import load_pretrained, start_from


def classifier_config(
    model_args: ModelArguments, class_names: list[str], num_encoders: int = 1
) -> DebiasedImageClassifierConfig:
    """Configuration of a classifier for these classes."""
    source = source_of(model_args)
    return DebiasedImageClassifierConfig(
        backbone=source.architecture,
        backbone_args=source.arguments,
        num_encoders=num_encoders,
        image_size=model_args.preprocessing()["image_size"],
        id2label=dict(enumerate(class_names)),
        label2id={name: number for number, name in enumerate(class_names)},
    )


def check_backbone(model_args: ModelArguments, batch_size: int, member_features: str = "final") -> None:
    """Tries one encoder, with its weights, on one black image, so that a backbone that does not fit is refused before
    anything is written.

    Args:
        model_args (`ModelArguments`): Network and image size.
        batch_size (`int`): Samples in a training batch, at least 1.
        member_features (`str`, *optional*, defaults to `"final"`): What members are to see of it, `"early"` or
            `"final"`. A frozen backbone without early layers shows them final features.

    Raises:
        `BiasEnsembleError`: If there is no such backbone, its weights cannot be loaded or do not fit, it cannot take
            images of that size, does not give pooled features or those of early layers, has fewer layers than are to
            be trained, or cannot train on so few samples at once.
    """
    if model_args.backbone == FEATURES:
        return
    config = classifier_config(model_args, class_names=[])
    where = f"--backbone {model_args.backbone} at --image_size {config.image_size}"
    encoder = backbone_alone(model_args).eval()
    image = torch.zeros(1, config.num_channels, config.image_size, config.image_size)
    with torch.no_grad():
        try:
            features = encoder(image)
        except Exception as error:  # networks refuse a size with whatever their layers raise
            reason = " ".join(str(error).split())[:200] or repr(error)
            size = "image_size" if config.backbone == TRANSFORMERS else "img_size"
            raise BiasEnsembleError(
                f"{where}: expected a network that takes this size, found {reason}; use the size it is made for, or "
                "pass yours on where the network has an argument for it, as vision transformers have: "
                f"--backbone_args '{{\"{size}\": {config.image_size}}}'"
            ) from error
        width = feature_width(encoder)
        found = f"shape {tuple(features.shape)}" if isinstance(features, torch.Tensor) else "several outputs"
        if found != f"shape {(1, width)}":
            raise BiasEnsembleError(
                f"{where} with arguments {model_args.timm_arguments()}: expected pooled features (B, "
                f"{width or 'num_features'}), found {found} for one image; use another backbone, or leave out "
                "--backbone_args that change its output"
            )
        if member_features == "early" and not model_args.freeze_backbone:
            check_early_layers(EarlyAndFinal(encoder, config.image_size), model_args.backbone)
        if batch_size == 1:
            try:
                encoder.train()(image)
            except ValueError as error:
                raise BiasEnsembleError(
                    f"{where}: expected two or more samples in a training batch, found one, which its batch "
                    "normalisation cannot train on; raise --per_device_train_batch_size or --image_size"
                ) from error


def backbone_alone(model_args: ModelArguments) -> nn.Module:
    """The encoder that the arguments name, without a classifier; raises as [`build_classifiers`]."""
    with timm_errors_named(model_args):
        encoder = build_with_seed(0, lambda: build_encoder(classifier_config(model_args, [])))
    _load_and_freeze([encoder], model_args)
    return encoder


def build_classifiers(
    model_args: ModelArguments, class_names: list[str], seeds: Sequence[int], num_encoders: int = 1
) -> list[DebiasedImageClassifier]:
    """A classifier for each seed. Its encoders start from the weights that the arguments name, which are read once for
    all; everything else, from the seed.

    Args:
        model_args (`ModelArguments`): Architecture, weights, and how many layers are trained.
        class_names (`list[str]`): Names of the classes.
        seeds (`Sequence[int]`): Of everything that is not pretrained.
        num_encoders (`int`, *optional*, defaults to 1): 1, or 2 for DisEnt.

    Raises:
        `BiasEnsembleError`: If there is no such backbone, or its weights cannot be loaded or do not fit.
    """

    def build() -> DebiasedImageClassifier:
        return DebiasedImageClassifier(classifier_config(model_args, class_names, num_encoders))

    with timm_errors_named(model_args):
        models = [build_with_seed(seed, build) for seed in seeds]
    _load_and_freeze([encoder for model in models for encoder in model.encoders()], model_args)
    return models


def _load_and_freeze(encoders: list[nn.Module], model_args: ModelArguments) -> None:
    """Gives encoders the weights that the arguments name, if any, and freezes their first layers."""
    if model_args.starts_pretrained:
        load_pretrained(encoders, model_args)
    for encoder in encoders:
        freeze_first_layers(encoder, model_args.train_layers)


def classifier_alone(
    model_args: ModelArguments, class_names: list[str], seed: int, num_encoders: int = 1
) -> DebiasedImageClassifier:
    """The classifier that a run publishes, before training."""
    seeds = [derived_seed(seed, "debiased model")]
    return _started(build_classifiers(model_args, class_names, seeds, num_encoders)[0], model_args)


def _started(model: DebiasedImageClassifier, model_args: ModelArguments) -> DebiasedImageClassifier:
    """The classifier with the weights of the one named by `init_from`, if any."""
    if model_args.init_from:
        start_from(model, model_args.init_from, model_args.init_part)
    return model


def biased_and_debiased(model_args: ModelArguments, class_names: list[str], seed: int) -> BiasedDebiasedPair:
    """f_B and f_D of LfF. The debiased model starts from the same weights as the classifier alone."""
    seeds = [derived_seed(seed, name) for name in ("biased model", "debiased model")]
    biased, debiased = build_classifiers(model_args, class_names, seeds)
    return BiasedDebiasedPair(biased, _started(debiased, model_args))


def disentangled(model_args: ModelArguments, class_names: list[str], seed: int) -> DisentangledPair:
    """The two encoders and two heads of DisEnt."""
    debiased = classifier_alone(model_args, class_names, seed, num_encoders=2)
    if not any(True for encoder in debiased.encoders() for _ in encoder.parameters()):
        raise BiasEnsembleError(
            "--head: expected mlp with --freeze_backbone and two encoders to disentangle, found linear, which leaves "
            "these without a weight"
        )
    head = debiased.classifier
    return DisentangledPair(
        debiased,
        build_with_seed(derived_seed(seed, "bias head"), lambda: nn.Linear(head.in_features, head.out_features)),
    )


def build_members(model_args: ModelArguments, class_names: list[str], num_members: int, seed: int) -> MemberEnsemble:
    """The biased members of BiasEnsemble, each with its own initialisation."""
    seeds = [derived_seed(seed, "member", number) for number in range(num_members)]
    return MemberEnsemble(build_classifiers(model_args, class_names, seeds))
