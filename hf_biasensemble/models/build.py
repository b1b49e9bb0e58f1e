"""Untrained networks from the settings, each from a seed of its own."""

import timm
from torch import nn

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, DebiasedImageClassifierConfig
from hf_biasensemble.models.pair import BiasedDebiasedPair, DisentangledPair, MemberEnsemble
from hf_biasensemble.seeding import build_with_seed, derived_seed


def classifier_config(
    model_args: ModelArguments, class_names: list[str], num_encoders: int = 1
) -> DebiasedImageClassifierConfig:
    """Configuration of a classifier for these classes."""
    return DebiasedImageClassifierConfig(
        backbone=model_args.backbone,
        backbone_args=model_args.timm_arguments(),
        num_encoders=num_encoders,
        image_size=model_args.image_size,
        id2label=dict(enumerate(class_names)),
        label2id={name: number for number, name in enumerate(class_names)},
    )


def build_classifier(config: DebiasedImageClassifierConfig, pretrained: bool, seed: int) -> DebiasedImageClassifier:
    """One classifier, initialised from the seed or, its encoders, from timm's pretrained weights.

    Raises:
        `BiasEnsembleError`: If timm does not know the backbone, or its weights cannot be had.
    """
    try:
        model = build_with_seed(seed, lambda: DebiasedImageClassifier(config))
    except (RuntimeError, TypeError) as error:
        near = ", ".join(timm.list_models(f"*{config.backbone.split('.')[0][:8]}*")[:5])
        raise BiasEnsembleError(
            f"--backbone {config.backbone} with arguments {config.backbone_args}: {' '.join(str(error).split())}; "
            f"timm models with a similar name: {near or 'none'}"
        ) from error
    if pretrained:
        _load_pretrained_encoders(model, config)
    return model


def _load_pretrained_encoders(model: DebiasedImageClassifier, config: DebiasedImageClassifierConfig) -> None:
    try:
        source = timm.create_model(config.backbone, pretrained=True, num_classes=0, **config.timm_arguments())
    except Exception as error:  # timm passes on whatever its download raises
        raise BiasEnsembleError(
            f"pretrained weights of {config.backbone} could not be loaded ({' '.join(str(error).split())[:200]}); "
            "train once where the Hub can be reached, or set --pretrained false"
        ) from error
    for encoder in model.encoders():
        encoder.load_state_dict(source.state_dict())


def build_trainable(model_args: ModelArguments, class_names: list[str], method: str, seed: int) -> nn.Module:
    """What the method trains. The debiased model starts from the same weights whatever the method."""
    num_encoders = 2 if method.startswith("disent") else 1
    config = classifier_config(model_args, class_names, num_encoders)
    debiased = build_classifier(config, model_args.pretrained, derived_seed(seed, "debiased model"))
    if method == "erm":
        return debiased
    if num_encoders == 2:
        head = debiased.classifier
        return DisentangledPair(
            debiased,
            build_with_seed(derived_seed(seed, "bias head"), lambda: nn.Linear(head.in_features, head.out_features)),
        )
    biased = build_classifier(config, model_args.pretrained, derived_seed(seed, "biased model"))
    return BiasedDebiasedPair(biased, debiased)


def build_members(model_args: ModelArguments, class_names: list[str], num_members: int, seed: int) -> MemberEnsemble:
    """The biased members of BiasEnsemble, each with its own initialisation."""
    config = classifier_config(model_args, class_names)
    seeds = [derived_seed(seed, "member", number) for number in range(num_members)]
    return MemberEnsemble([build_classifier(config, model_args.pretrained, member_seed) for member_seed in seeds])
