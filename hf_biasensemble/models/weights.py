"""Initial weights of a network: its backbone's own, those in a file, or those of a published classifier."""

from pathlib import Path
from typing import Any, TypeAlias

import timm
import torch
from timm.models import load_state_dict
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel, TimmWrapperForImageClassification

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.models.backbones import is_checkpoint, source_of, without_bar
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.models.modeling_debiased import TRANSFORMERS, DebiasedImageClassifier, TransformersEncoder

Weights: TypeAlias = dict[str, torch.Tensor]


def load_pretrained(encoders: list[nn.Module], model_args: ModelArguments) -> None:
    """Loads the pretrained weights that the arguments name into encoders of the same architecture."""
    file, wanted = model_args.pretrained_weights, encoders[0].state_dict()
    if file:
        where, remedy = f"--pretrained_weights {file}", "name the architecture of the file with --backbone"
        found = _weights_in_file(file, encoders[0], where)
    else:
        where = f"--backbone {model_args.backbone}"
        remedy = "use another checkpoint, leave out --backbone_args that change shapes, or set --pretrained false"
        found = _pretrained_weights(model_args)
    if listed := misfits(found, wanted):
        raise BiasEnsembleError(
            f"{where}: expected the {len(wanted)} weights of {model_args.backbone}, found {listed}; {remedy}"
        )
    for encoder in encoders:
        encoder.load_state_dict(found)


def start_from(model: DebiasedImageClassifier, model_args: ModelArguments) -> DebiasedImageClassifier:
    """Returns the model, after copying the `init_part` of the classifier named by `init_from`, if any, into it."""
    name, part = model_args.init_from, model_args.init_part
    if not name:
        return model
    where = f"--init_from {name}"
    try:
        source, _, _ = load_classifier(name)
    except BiasEnsembleError as error:
        raise BiasEnsembleError(str(error).replace("--model", "--init_from", 1)) from error
    theirs, ours = (
        [config.id2label[number] for number in range(config.num_labels)] for config in (source.config, model.config)
    )
    if part != "encoder" and theirs != ours:
        raise BiasEnsembleError(
            f"{where}: expected the classes {', '.join(ours[:10])}, found {', '.join(theirs[:10])}; use "
            "--init_part encoder for a new head"
        )

    def of_part(weights: Weights) -> Weights:
        return {
            key: value
            for key, value in weights.items()
            if part == "whole" or key.startswith("classifier.") == (part == "head")
        }

    found = of_part(_weights_of(source, model.config.backbone_args or {}))
    if listed := misfits(found, of_part(model.state_dict())):
        kind = source.config.model_type
        architecture = getattr(source.config, "architecture", None) or getattr(source.config, "backbone", kind)
        raise BiasEnsembleError(
            f"{where}: expected the weights of {model.config.backbone} with {model.config.num_encoders} encoder(s), "
            f"found those of {architecture} with {listed}; use the --backbone of that model and a method with as many "
            "encoders"
        )
    model.load_state_dict(found, strict=False)
    return model


def misfits(found: Weights, wanted: Weights) -> str:
    """Describes which weights are missing, unknown or of another shape; empty if all fit."""
    named = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in named.items()
        if names
    )


def _weights_in_file(file: str, encoder: Any, where: str) -> Weights:
    """The encoder's weights, without a classifier, in a safetensors file or a state dict of `torch.save`. Pickled code
    never runs."""
    if isinstance(encoder, TransformersEncoder):
        raise BiasEnsembleError(f"{where}: expected a timm backbone, found one of transformers; use --pretrained true")
    try:
        found = load_state_dict(str(Path(file).expanduser()), weights_only=True)
    except Exception as error:  # a dozen types, from the archive to the pickle
        raise BiasEnsembleError(
            f"{where}: expected safetensors or a state dict of torch.save, found neither ({reason_of(error, 200)})"
        ) from error
    found = {name.removeprefix("timm_model."): tensor for name, tensor in found.items()}  # as transformers saves them
    heads = encoder.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return {name: tensor for name, tensor in found.items() if name.rpartition(".")[0] not in heads}


def _pretrained_weights(model_args: ModelArguments) -> Weights:
    """The pretrained weights of the backbone that the arguments name, downloaded unless they are cached."""
    name, source, missing = model_args.backbone, source_of(model_args), []
    try:
        if is_checkpoint(name):
            is_timm = source.architecture != TRANSFORMERS
            given = {} if is_timm else model_args.timm_arguments()
            with without_bar(warnings=False):
                model, info = AutoModelForImageClassification.from_pretrained(
                    name,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # reported below
                    **given,
                )
            found = _weights_of(model, source.arguments)
            head = model.timm_model.pretrained_cfg["classifier"] if is_timm else source.arguments["head"]
            lacking = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
            missing = [key for key in lacking if not key.startswith((f"{head}.", f"timm_model.{head}."))]
            weights = {
                key.removeprefix("encoder."): value for key, value in found.items() if key.startswith("encoder.")
            }
        else:
            arguments = {"in_chans": 3, **model_args.timm_arguments()}
            weights = timm.create_model(name, pretrained=True, num_classes=0, **arguments).state_dict()
    except Exception as error:  # downloads raise unrelated types
        raise BiasEnsembleError(
            f"pretrained weights of {name} could not be loaded ({reason_of(error, 200)}); "
            "train once where the Hub can be reached, name a local file of weights with --pretrained_weights FILE, or "
            "set --pretrained false"
        ) from error
    if missing:
        raise BiasEnsembleError(
            f"--backbone {name}: expected all weights of the network, found {len(missing)} missing or of another "
            f"shape ({', '.join(sorted(missing)[:3])}); use another checkpoint, leave out --backbone_args that change "
            "shapes, or set --pretrained false"
        )
    return weights


def _weights_of(model: PreTrainedModel, backbone_args: dict[str, Any]) -> Weights:
    """The weights of any image classifier, renamed as in a [`DebiasedImageClassifier`] with these `backbone_args`."""
    network: Any = model
    if backbone_args.get("classifier", {}).get("model_type") == model.config.model_type:
        head, place = backbone_args["head"], "encoder.network."
    elif isinstance(model, TimmWrapperForImageClassification):
        network, place = model.timm_model, "encoder."
        head = network.pretrained_cfg["classifier"]
    else:
        return model.state_dict()
    return {
        name.replace(head, "classifier", 1) if name.startswith(f"{head}.") else place + name: (
            value.flatten(1) if name == f"{head}.weight" else value  # some heads are 1x1 convolutions
        )
        for name, value in network.state_dict().items()
    }
