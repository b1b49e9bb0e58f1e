"""Untrained networks from the settings, each from a seed of its own."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
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


def build_classifier(
    config: DebiasedImageClassifierConfig, pretrained: bool, seed: int, weights_file: str | None = None
) -> DebiasedImageClassifier:
    """One classifier, initialised from the seed or, its encoders, from timm's pretrained weights or a file of them.

    Args:
        config (`DebiasedImageClassifierConfig`): Architecture.
        pretrained (`bool`): Whether the encoders start from timm's weights, downloaded where they are not cached.
        seed (`int`): Of everything else.
        weights_file (`str`, *optional*): Start the encoders from this file instead, safetensors or what `torch.save`
            wrote of a state dict. Pickled code in it is not run. A classifier in it is left out.

    Raises:
        `BiasEnsembleError`: If timm does not know the backbone, or its weights cannot be had or do not fit.
    """
    try:
        model = build_with_seed(seed, lambda: DebiasedImageClassifier(config))
    except (RuntimeError, TypeError) as error:
        near = ", ".join(timm.list_models(f"*{config.backbone.split('.')[0][:8]}*")[:5])
        raise BiasEnsembleError(
            f"--backbone {config.backbone} with arguments {config.backbone_args}: {' '.join(str(error).split())}; "
            f"timm models with a similar name: {near or 'none'}"
        ) from error
    if pretrained or weights_file:
        weights = _weights_in_file(weights_file, model) if weights_file else _timm_weights(config)
        for encoder in model.encoders():
            encoder.load_state_dict(weights)
    return model


def _timm_weights(config: DebiasedImageClassifierConfig) -> dict[str, torch.Tensor]:
    try:
        source = timm.create_model(config.backbone, pretrained=True, num_classes=0, **config.timm_arguments())
    except Exception as error:  # timm passes on whatever its download raises
        raise BiasEnsembleError(
            f"pretrained weights of {config.backbone} could not be loaded ({' '.join(str(error).split())[:200]}); "
            "train once where the Hub can be reached, name a local file of them with --pretrained_weights FILE, or "
            "set --pretrained false"
        ) from error
    return source.state_dict()


def _weights_in_file(file: str, model: DebiasedImageClassifier) -> dict[str, torch.Tensor]:
    """The encoder's weights in the file, checked against the encoder."""
    where = f"--pretrained_weights {file}"
    encoder: Any = next(iter(model.encoders()))
    try:
        found = load_state_dict(str(Path(file).expanduser()), weights_only=True)
    except Exception as error:  # a dozen types, from the archive to the pickle
        raise BiasEnsembleError(
            f"{where}: expected safetensors or a state dict of torch.save, found neither "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    found = {name.removeprefix("timm_model."): tensor for name, tensor in found.items()}  # as transformers saves them
    heads = encoder.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    found = {name: tensor for name, tensor in found.items() if name.rpartition(".")[0] not in heads}
    wanted = encoder.state_dict()
    misfits = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    listed = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in misfits.items()
        if names
    ]
    if listed:
        raise BiasEnsembleError(
            f"{where}: expected the {len(wanted)} weights of {model.config.backbone}, found {'; '.join(listed)}; name "
            "the file's own architecture with --backbone"
        )
    return found


def build_trainable(model_args: ModelArguments, class_names: list[str], method: str, seed: int) -> nn.Module:
    """What the method trains. The debiased model starts from the same weights whatever the method."""
    num_encoders = 2 if method.startswith("disent") else 1
    config = classifier_config(model_args, class_names, num_encoders)
    debiased = build_classifier(
        config, model_args.pretrained, derived_seed(seed, "debiased model"), model_args.pretrained_weights
    )
    if method == "erm":
        return debiased
    if num_encoders == 2:
        head = debiased.classifier
        return DisentangledPair(
            debiased,
            build_with_seed(derived_seed(seed, "bias head"), lambda: nn.Linear(head.in_features, head.out_features)),
        )
    biased = build_classifier(
        config, model_args.pretrained, derived_seed(seed, "biased model"), model_args.pretrained_weights
    )
    return BiasedDebiasedPair(biased, debiased)


def build_members(model_args: ModelArguments, class_names: list[str], num_members: int, seed: int) -> MemberEnsemble:
    """The biased members of BiasEnsemble, each with its own initialisation."""
    config = classifier_config(model_args, class_names)
    seeds = [derived_seed(seed, "member", number) for number in range(num_members)]
    pretrained, file = model_args.pretrained, model_args.pretrained_weights
    return MemberEnsemble([build_classifier(config, pretrained, member_seed, file) for member_seed in seeds])
