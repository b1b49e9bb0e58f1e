"""Untrained networks from the settings, each from a seed of its own."""

from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from torch import nn

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.seeding import build_with_seed, derived_seed
from hf_biasensemble.models.backbones import pretrained_weights, source_of, timm_errors_named
from hf_biasensemble.models.fine_tuning import freeze_first_layers
from hf_biasensemble.models.initial_weights import start_from
from hf_biasensemble.models.modeling_debiased import (
    FEATURES,
    TRANSFORMERS,
    DebiasedImageClassifier,
    DebiasedImageClassifierConfig,
    TransformersEncoder,
    build_encoder,
    feature_width,
)
from hf_biasensemble.models.pair import BiasedDebiasedPair, DisentangledPair, MemberEnsemble


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


def check_backbone(model_args: ModelArguments, batch_size: int) -> None:
    """Tries one encoder, with its weights, on one black image, so that a backbone that does not fit is found before
    anything is written.

    Args:
        model_args (`ModelArguments`): Network and image size.
        batch_size (`int`): Samples in a training batch, at least 1.

    Raises:
        `BiasEnsembleError`: If there is no such backbone, its weights cannot be had or do not fit, it cannot take
            images of that size, does not give pooled features, has fewer layers than are to be trained, or cannot
            train on so few samples at once.
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
        if batch_size == 1:
            try:
                encoder.train()(image)
            except ValueError as error:
                raise BiasEnsembleError(
                    f"{where}: expected two or more samples in a training batch, found one, which its batch "
                    "normalisation cannot train on; raise --per_device_train_batch_size or --image_size"
                ) from error


def backbone_alone(model_args: ModelArguments) -> nn.Module:
    """The encoder that the arguments name, without a classifier; raises as [`build_classifier`]."""
    with timm_errors_named(model_args):
        encoder = build_with_seed(0, lambda: build_encoder(classifier_config(model_args, [])))
    _load_and_freeze([encoder], model_args)
    return encoder


def build_classifier(
    model_args: ModelArguments, class_names: list[str], seed: int, num_encoders: int = 1
) -> DebiasedImageClassifier:
    """One classifier, initialised from the seed or, its encoders, from the weights that the arguments name.

    Args:
        model_args (`ModelArguments`): Architecture, weights, and how many layers are trained.
        class_names (`list[str]`): Names of the classes.
        seed (`int`): Of everything that is not pretrained.
        num_encoders (`int`, *optional*, defaults to 1): 1, or 2 for DisEnt.

    Raises:
        `BiasEnsembleError`: If there is no such backbone, or its weights cannot be had or do not fit.
    """
    config = classifier_config(model_args, class_names, num_encoders)
    with timm_errors_named(model_args):
        model = build_with_seed(seed, lambda: DebiasedImageClassifier(config))
    _load_and_freeze(model.encoders(), model_args)
    return model


def _load_and_freeze(encoders: list[nn.Module], model_args: ModelArguments) -> None:
    """Gives encoders the weights that the arguments name, if any, and freezes their first layers."""
    if model_args.starts_pretrained:
        file = model_args.pretrained_weights
        weights = _weights_in_file(file, encoders[0], model_args) if file else pretrained_weights(model_args)
        try:
            for encoder in encoders:
                encoder.load_state_dict(weights)
        except RuntimeError as error:
            raise BiasEnsembleError(
                f"--backbone {model_args.backbone}: expected weights that fit the network, found others "
                f"({' '.join(str(error).split())[:200]}); use another checkpoint, leave out --backbone_args that "
                "change shapes, or set --pretrained false"
            ) from error
    for encoder in encoders:
        freeze_first_layers(encoder, model_args.train_layers)


def _weights_in_file(file: str, encoder: Any, model_args: ModelArguments) -> dict[str, torch.Tensor]:
    """The encoder's weights in the file, checked against the encoder: safetensors or what `torch.save` wrote of a
    state dict. Pickled code in it is not run. A classifier in it is left out."""
    where = f"--pretrained_weights {file}"
    if isinstance(encoder, TransformersEncoder):
        raise BiasEnsembleError(f"{where}: expected a timm backbone, found one of transformers; use --pretrained true")
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
            f"{where}: expected the {len(wanted)} weights of {model_args.backbone}, found {'; '.join(listed)}; name "
            "the file's own architecture with --backbone"
        )
    return found


def classifier_alone(
    model_args: ModelArguments, class_names: list[str], seed: int, num_encoders: int = 1
) -> DebiasedImageClassifier:
    """The classifier that a run is for, before training."""
    model = build_classifier(model_args, class_names, derived_seed(seed, "debiased model"), num_encoders)
    if model_args.init_from:
        start_from(model, model_args.init_from, model_args.init_part)
    return model


def biased_and_debiased(model_args: ModelArguments, class_names: list[str], seed: int) -> BiasedDebiasedPair:
    """f_B and f_D of LfF. The debiased model starts from the same weights as the classifier alone."""
    biased = build_classifier(model_args, class_names, derived_seed(seed, "biased model"))
    return BiasedDebiasedPair(biased, classifier_alone(model_args, class_names, seed))


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
    return MemberEnsemble([build_classifier(model_args, class_names, member_seed) for member_seed in seeds])
