"""`train --dry_run`: all checks of a run and a summary of it, without training."""

from typing import Any

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments
from hf_biasensemble.arguments.model import FEATURES
from hf_biasensemble.data.batches.device_pixels import check_room
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.early_layers import EarlyAndFinal
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, build_encoder
from hf_biasensemble.runs.prepared import Prepared
from hf_biasensemble.runs.run import prepare_run


def describe_run(
    data_args: DataArguments, model_args: ModelArguments, selection_args: Any, args: DebiasingArguments
) -> str:
    """Checks everything a run checks before training, decodes the images, and summarises the run.

    Writes nothing to `output_dir`. Raises `BiasEnsembleError` if the run would stop before training.
    """
    prepared, checkpoint = prepare_run(data_args, model_args, selection_args, args)
    method, model_args, selection_args = prepared.method, prepared.model_args, prepared.selection_args
    splits = prepared.splits
    if not model_args.freeze_backbone:  # otherwise features go there, whose size is not known yet
        check_room(args.pixels_on, args.device, splits)
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    epochs = args.max_steps * batch / max(1, len(splits["train"]))
    every = {"steps": f"every {args.eval_steps:g} steps", "epoch": "every epoch"}
    evaluated = every.get(getattr(args.eval_strategy, "value", args.eval_strategy), "at the end")
    lines = {
        "method": f"{method.name} ({method.title})",
        "dataset": f"{data_args.dataset_name} {data_args.dataset_config_name or ''}".strip(),
        **{f"  {name}": _size_of(split) for name, split in splits.items()},
        "network": _network(model_args, splits["train"]),
        "memory": _memory(prepared),
        "training": f"{args.max_steps:,} steps of {batch:,} images ({epochs:,.1f} epochs), evaluated {evaluated}",
    }
    if selection_args is not None:
        steps, count = (getattr(selection_args, name, None) for name in ("member_steps", "num_members"))
        members = f", {count} members, {steps:,} steps each" if steps and count else ""
        lines["selection"] = f"{method.selector.title if method.selector else ''}{members}"
    lines["device"] = f"{args.device}, {args.world_size} process{'es' if args.world_size > 1 else ''}"
    lines["output"] = f"{args.output_dir}" + (f", resumed from {checkpoint.name}" if checkpoint else "")
    return "\n".join(f"{name:<14}{text}" for name, text in lines.items()) + "\ndry run: nothing was trained"


def _size_of(split: ImageSplit) -> str:
    known = split.groups()
    conflicting = split.measured_by()["is_conflicting"]
    bias = "" if known is None else ", with bias labels"
    if conflicting is not None:
        bias = f", {int(conflicting.sum()):,} bias-conflicting"
    return f"{len(split):,} images, {len(split.class_names)} classes{bias}"


def _network(model_args: ModelArguments, train: ImageSplit) -> str:
    built = DebiasedImageClassifier(classifier_config(model_args, train.class_names))
    count = sum(parameter.numel() for parameter in built.parameters())
    start = "pretrained" if model_args.starts_pretrained else "from scratch"
    frozen = f", frozen, head {model_args.head} trained" if model_args.freeze_backbone else ""
    if model_args.backbone == FEATURES:
        return f"{model_args.head} head, {count:,} parameters, on vectors of {train.pixels.shape[-1]:,} numbers"
    return f"{model_args.backbone}, {count:,} parameters, {start}{frozen}, input {model_args.image_size} pixels"


def _memory(prepared: Prepared) -> str:
    """Size of the decoded images and features; splits cut from train share both."""
    model_args, splits = prepared.model_args, prepared.splits
    stores: dict[int, tuple[Any, bool]] = {}
    for name in sorted(splits, key=lambda name: name != "train"):
        stores.setdefault(id(splits[name].pixels), (splits[name].pixels, name == "train"))
    pixels = sum(store.shape.numel() for store, _ in stores.values())
    if model_args.backbone == FEATURES:
        return f"{_bytes(4 * pixels)} of vectors"
    text = f"{_bytes(pixels)} of decoded images"
    if model_args.freeze_backbone or prepared.member_features == "early":
        config = classifier_config(model_args, splits["train"].class_names)
        network = EarlyAndFinal(build_encoder(config), config.image_size)
        augments = image_transform(model_args, prepared.args.augmentation).augments
        views = model_args.feature_views if augments else 0
        rows = sum(store.shape[0] * (1 + views * is_train) for store, is_train in stores.values())
        text += f", {_bytes(2 * rows * (network.width + network.early_width))} of features"
    return text


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
