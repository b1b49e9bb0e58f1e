"""Builds networks from the settings, each with its own seed."""

from collections.abc import Sequence

import torch
from torch import nn

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of, require
from hf_biasensemble.internal.seeding import build_with_seed, derived_seed
from hf_biasensemble.models.backbones import source_of, timm_errors_named
from hf_biasensemble.models.early_layers import EarlyAndFinal
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
    """The configuration of a classifier of these classes."""
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
    """Runs one pretrained encoder on a black image, to refuse an unsuitable backbone before anything is written.

    With a frozen backbone, `member_features="early"` needs no early layers: members then read final features.
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
        except Exception as error:  # each network has its own errors for a wrong size
            reason = reason_of(error, 200)
            size = "image_size" if config.backbone == TRANSFORMERS else "img_size"
            raise BiasEnsembleError(
                f"{where}: expected a network that takes this size, found {reason}; use the size it was made for, or "
                "pass yours if the network has an argument for it, as vision transformers do: "
                f"--backbone_args '{{\"{size}\": {config.image_size}}}'"
            ) from error
        width = feature_width(encoder)
        found = f"shape {tuple(features.shape)}" if isinstance(features, torch.Tensor) else "several outputs"
        if found != f"shape {(1, width)}":
            raise BiasEnsembleError(
                f"{where} with arguments {model_args.timm_arguments()}: expected pooled features (B, "
                f"{width or 'num_features'}), found {found} for one image; use another backbone, or leave out "
                "--backbone_args that change the output"
            )
        if member_features == "early" and not model_args.freeze_backbone:
            expected = f"final, since {model_args.backbone} gives no outputs of early layers"
            has_early = EarlyAndFinal(encoder, config.image_size).early_width > 0
            require(has_early, "--member_features", expected, "early")
        if batch_size == 1:
            try:
                encoder.train()(image)
            except ValueError as error:
                raise BiasEnsembleError(
                    f"{where}: expected two or more samples in a training batch, found one, which its batch "
                    "normalisation cannot train on; raise --per_device_train_batch_size or --image_size"
                ) from error


def backbone_alone(model_args: ModelArguments) -> nn.Module:
    """The encoder that the arguments name, without a classifier."""
    with timm_errors_named(model_args):
        encoder = build_with_seed(0, lambda: build_encoder(classifier_config(model_args, [])))
    _load_and_freeze([encoder], model_args)
    return encoder


def build_classifiers(
    model_args: ModelArguments, class_names: list[str], seeds: Sequence[int], num_encoders: int = 1
) -> list[DebiasedImageClassifier]:
    """One classifier per seed, which initialises the layers that are not pretrained; weights are read only once."""

    def build() -> DebiasedImageClassifier:
        return DebiasedImageClassifier(classifier_config(model_args, class_names, num_encoders))

    with timm_errors_named(model_args):
        models = [build_with_seed(seed, build) for seed in seeds]
    _load_and_freeze([encoder for model in models for encoder in model.encoders()], model_args)
    return models


def _load_and_freeze(encoders: list[nn.Module], model_args: ModelArguments) -> None:
    """Loads the pretrained weights that the arguments name, if any, and freezes the first layers."""
    if model_args.starts_pretrained:
        load_pretrained(encoders, model_args)
    for encoder in encoders:
        freeze_first_layers(encoder, model_args.train_layers)


def classifier_alone(
    model_args: ModelArguments, class_names: list[str], seed: int, num_encoders: int = 1
) -> DebiasedImageClassifier:
    """Builds the classifier that a run publishes, before training.

    Args:
        model_args (`ModelArguments`): Architecture and initial weights, with preprocessing settled.
        class_names (`list[str]`): Names of the classes, by class number.
        seed (`int`): Seed of the run.
        num_encoders (`int`, *optional*, defaults to 1): 1, or 2 for DisEnt.

    Raises:
        `BiasEnsembleError`: If there is no such backbone, or its weights cannot be loaded or do not fit.
    """
    (model,) = build_classifiers(model_args, class_names, [derived_seed(seed, "debiased model")], num_encoders)
    return start_from(model, model_args)


def biased_and_debiased(model_args: ModelArguments, class_names: list[str], seed: int) -> BiasedDebiasedPair:
    """Builds the models f_B and f_D of LfF; f_D starts from the same weights as [`classifier_alone`], whose arguments
    and errors are the same."""
    seeds = [derived_seed(seed, name) for name in ("biased model", "debiased model")]
    biased, debiased = build_classifiers(model_args, class_names, seeds)
    return BiasedDebiasedPair(biased, start_from(debiased, model_args))


def disentangled(model_args: ModelArguments, class_names: list[str], seed: int) -> DisentangledPair:
    """Builds the two encoders and two heads of DisEnt; arguments and errors are those of [`classifier_alone`]."""
    debiased = classifier_alone(model_args, class_names, seed, num_encoders=2)
    if not list(debiased.encoder.parameters()):
        raise BiasEnsembleError(
            "--head: expected mlp with --freeze_backbone and two encoders to disentangle, found linear, which leaves "
            "the encoders without weights"
        )
    width, classes = debiased.classifier.in_features, debiased.classifier.out_features
    bias_head = build_with_seed(derived_seed(seed, "bias head"), lambda: nn.Linear(width, classes))
    return DisentangledPair(debiased, bias_head)


def build_members(model_args: ModelArguments, class_names: list[str], num_members: int, seed: int) -> MemberEnsemble:
    """Builds the biased members of BiasEnsemble, each with its own initialisation."""
    seeds = [derived_seed(seed, "member", number) for number in range(num_members)]
    return MemberEnsemble(build_classifiers(model_args, class_names, seeds))
