"""Untrained networks from the settings, each from a seed of its own."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import nn

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.seeding import build_with_seed, derived_seed
from hf_biasensemble.models.fine_tuning import freeze_first_layers
from hf_biasensemble.models.initial_weights import start_from
from hf_biasensemble.models.modeling_debiased import (
    DebiasedImageClassifier,
    DebiasedImageClassifierConfig,
    build_encoder,
    feature_width,
)
from hf_biasensemble.models.pair import BiasedDebiasedPair, DisentangledPair, MemberEnsemble
from hf_biasensemble.models.timm_errors import timm_errors_named


def classifier_config(
    model_args: ModelArguments, class_names: list[str], num_encoders: int = 1
) -> DebiasedImageClassifierConfig:
    """Configuration of a classifier for these classes."""
    return DebiasedImageClassifierConfig(
        backbone=model_args.backbone,
        backbone_args=model_args.timm_arguments(),
        num_encoders=num_encoders,
        image_size=model_args.preprocessing()["image_size"],
        id2label=dict(enumerate(class_names)),
        label2id={name: number for number, name in enumerate(class_names)},
    )


def check_backbone(model_args: ModelArguments, batch_size: int) -> None:
    """Tries one encoder on one black image, so that a backbone that does not fit is found before any training.

    Args:
        model_args (`ModelArguments`): Network and image size.
        batch_size (`int`): Samples in a training batch, at least 1.

    Raises:
        `BiasEnsembleError`: If timm does not know the backbone, it cannot take images of that size, does not give
            pooled features, has fewer layers than are to be trained, or cannot train on so few samples at once.
    """
    config = classifier_config(model_args, class_names=[])
    where = f"--backbone {config.backbone} at --image_size {config.image_size}"
    with timm_errors_named(config):
        encoder = build_with_seed(0, lambda: build_encoder(config)).eval()
    freeze_first_layers(encoder, model_args.train_layers)
    image = torch.zeros(1, config.num_channels, config.image_size, config.image_size)
    with torch.no_grad():
        try:
            features = encoder(image)
        except Exception as error:  # networks refuse a size with whatever their layers raise
            reason = " ".join(str(error).split())[:200] or repr(error)
            raise BiasEnsembleError(
                f"{where}: expected a network that takes this size, found {reason}; use the size it is made for, or "
                "pass yours on where the network has an argument for it, as vision transformers have: "
                f"--backbone_args '{{\"img_size\": {config.image_size}}}'"
            ) from error
        width = feature_width(encoder)
        found = f"shape {tuple(features.shape)}" if isinstance(features, torch.Tensor) else "several outputs"
        if found != f"shape {(1, width)}":
            raise BiasEnsembleError(
                f"{where} with arguments {config.backbone_args}: expected pooled features (B, "
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


def build_classifier(
    config: DebiasedImageClassifierConfig,
    pretrained: bool,
    seed: int,
    weights_file: str | None = None,
    train_layers: int | None = None,
) -> DebiasedImageClassifier:
    """One classifier, initialised from the seed or, its encoders, from timm's pretrained weights or a file of them.

    Args:
        config (`DebiasedImageClassifierConfig`): Architecture.
        pretrained (`bool`): Whether the encoders start from timm's weights, downloaded where they are not cached.
        seed (`int`): Of everything else.
        weights_file (`str`, *optional*): Start the encoders from this file instead, safetensors or what `torch.save`
            wrote of a state dict. Pickled code in it is not run. A classifier in it is left out.
        train_layers (`int`, *optional*): Train only so many layers of the encoders, the last ones; by default all.

    Raises:
        `BiasEnsembleError`: If timm does not know the backbone, or its weights cannot be had or do not fit.
    """
    with timm_errors_named(config):
        model = build_with_seed(seed, lambda: DebiasedImageClassifier(config))
    if pretrained or weights_file:
        weights = _weights_in_file(weights_file, model) if weights_file else _timm_weights(config)
        for encoder in model.encoders():
            encoder.load_state_dict(weights)
    for encoder in model.encoders():
        freeze_first_layers(encoder, train_layers)
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


def classifier_alone(model_args: ModelArguments, class_names: list[str], seed: int) -> DebiasedImageClassifier:
    """The classifier and nothing else."""
    return _published(model_args, class_names, seed)


def biased_and_debiased(model_args: ModelArguments, class_names: list[str], seed: int) -> BiasedDebiasedPair:
    """f_B and f_D of LfF. The debiased model starts from the same weights as the classifier alone."""
    config = classifier_config(model_args, class_names)
    biased_seed = derived_seed(seed, "biased model")
    pretrained, file, layers = model_args.pretrained, model_args.pretrained_weights, model_args.train_layers
    biased = build_classifier(config, pretrained, biased_seed, file, layers)
    return BiasedDebiasedPair(biased, _published(model_args, class_names, seed))


def disentangled(model_args: ModelArguments, class_names: list[str], seed: int) -> DisentangledPair:
    """The two encoders and two heads of DisEnt."""
    debiased = _published(model_args, class_names, seed, num_encoders=2)
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


def _published(
    model_args: ModelArguments, class_names: list[str], seed: int, num_encoders: int = 1
) -> DebiasedImageClassifier:
    """The classifier that a run is for, before training."""
    config = classifier_config(model_args, class_names, num_encoders)
    pretrained, file, layers = model_args.pretrained, model_args.pretrained_weights, model_args.train_layers
    model = build_classifier(config, pretrained, derived_seed(seed, "debiased model"), file, layers)
    if model_args.init_from:
        start_from(model, model_args.init_from, model_args.init_part)
    return model


def build_members(model_args: ModelArguments, class_names: list[str], num_members: int, seed: int) -> MemberEnsemble:
    """The biased members of BiasEnsemble, each with its own initialisation."""
    config = classifier_config(model_args, class_names)
    seeds = [derived_seed(seed, "member", number) for number in range(num_members)]
    pretrained, file, layers = model_args.pretrained, model_args.pretrained_weights, model_args.train_layers
    return MemberEnsemble([build_classifier(config, pretrained, member_seed, file, layers) for member_seed in seeds])
