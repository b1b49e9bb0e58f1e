"""Settings that depend on other settings: resolved before a run and written to its `config.yaml`."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_biasensemble.arguments.data import DataArguments
from hf_biasensemble.arguments.model import FEATURES, ModelArguments
from hf_biasensemble.arguments.selection import SelectionArguments
from hf_biasensemble.arguments.training import DebiasingArguments
from hf_biasensemble.internal.errors import require

_NEVER_ENDING = ("constant", "constant_with_warmup", "inverse_sqrt")
_STATED = frozenset(
    """output_dir weight_decay adam_beta1 adam_beta2 adam_epsilon lr_scheduler_kwargs warmup_steps
    gradient_accumulation_steps train_sampling_strategy eval_delay eval_on_start full_determinism use_cpu bf16 fp16
    tf32 torch_compile torch_compile_backend torch_compile_mode ddp_broadcast_buffers dataloader_in_order""".split()
)
"""Options of `TrainingArguments` that affect results; `config.yaml` contains them if they are not the default."""


def settled_network(model_args: ModelArguments, data_args: DataArguments, args: DebiasingArguments) -> ModelArguments:
    """The network options. On vectors the network is a head, and image options are refused."""
    if not data_args.feature_column:
        require(model_args.backbone != FEATURES, "--backbone", "--feature_column with it", FEATURES)
        linear = model_args.freeze_backbone or model_args.head == "linear"
        require(linear, "--head", "linear without --freeze_backbone or --feature_column", model_args.head)
        return model_args
    given = model_args
    if model_args.backbone == FEATURES:  # already resolved, as in config.yaml
        given = dataclasses.replace(model_args, backbone="mlp", backbone_args=None)
    for field in dataclasses.fields(ModelArguments):
        default, found = getattr(ModelArguments(), field.name), getattr(given, field.name)
        of_heads = field.name in ("head", "head_hidden")
        require(of_heads or found == default, f"--{field.name}", "it left out with --feature_column", found)
    require(args.augmentation == "none", "--augmentation", "none with --feature_column", args.augmentation)
    return dataclasses.replace(model_args, backbone=FEATURES)


def settled_selection(selection_args: Any, model_args: ModelArguments, args: DebiasingArguments) -> Any:
    """The selector's settings with the parts that depend on the method, the network and `published_protocol`.

    By default votes are cross-fitted with a pretrained backbone and on vectors, where networks quickly memorise their
    training images.
    """
    if not isinstance(selection_args, SelectionArguments):
        return selection_args
    selection_args = args.settled_members(selection_args)
    if selection_args.cross_fit is None:
        memorises = model_args.starts_pretrained or model_args.on_features
        crossed = memorises and not selection_args.share_batches and not args.published_protocol
        selection_args = dataclasses.replace(selection_args, cross_fit=crossed)
    kind = selection_args.member_features or ("early" if model_args.freeze_backbone else "final")
    expected = "final, or a pretrained backbone that has early layers"
    require(model_args.starts_pretrained or kind != "early", "--member_features", expected, kind)
    selection_args = dataclasses.replace(selection_args, member_features=kind)
    if args.published_protocol:
        selection_args = dataclasses.replace(selection_args, keep_member="best", member_eval_steps=500)
    selection_args.check_evaluations()
    return selection_args


def member_arguments(
    args: DebiasingArguments, steps: int, learning_rate: float, batch_size: int
) -> DebiasingArguments:
    """Settings for training the members: their own folder, steps, learning rate and batch size per process, at least
    five checkpoints, and none of the method's options."""
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(DebiasingArguments) if f.init}
    changes: dict[str, Any] = {
        "output_dir": str(Path(args.output_dir) / "selection"),
        **{"max_steps": steps, "num_train_epochs": 0, "schedule_steps": None, "eval_on_start": False},
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
        "eval_strategy": "no",
        "save_total_limit": 1,
        "checkpoint_choice": "last",
        "run_name": f"{args.run_name} members" if args.run_name else None,
        "published_protocol": False,
        "step_decay_steps": 0,
        "weight_average": 0.0,
    }
    if args.save_strategy != "no":
        every = args.save_steps if args.save_strategy == "steps" and args.save_steps >= 1 else math.inf
        changes |= {"save_strategy": "steps", "save_steps": min(every, math.ceil(steps / 5))}
    return DebiasingArguments(**(given | changes))


def steps_of_epochs(args: DebiasingArguments, num_samples: int) -> int:
    """Optimisation steps in `num_train_epochs`, counted as the Trainer does."""
    batch_size = args.train_batch_size * args.world_size
    batches = num_samples / batch_size
    per_epoch = max(1, math.floor(batches) if args.dataloader_drop_last else math.ceil(batches))
    return math.ceil(args.num_train_epochs * math.ceil(per_epoch / args.gradient_accumulation_steps))


def settle_steps(args: DebiasingArguments, num_samples: int, before: Mapping[str, Any]) -> None:
    """Sets `max_steps` from epochs, and `schedule_steps`, the length of learning rate schedules and the base of step
    fractions. A resumed run, with settings `before`, keeps its `schedule_steps`, whatever its new `max_steps`. Refuses
    to train beyond the end of a learning rate schedule."""
    if args.num_train_epochs:
        args.max_steps, args.num_train_epochs = steps_of_epochs(args, num_samples), 0
    kept = before.get("schedule_steps", before.get("max_steps", args.schedule_steps))
    as_before = args.schedule_steps in (None, kept)
    require(as_before, "--schedule_steps", f"{kept}, as the run that is resumed", args.schedule_steps)
    args.schedule_steps = kept or args.max_steps
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    lasts = kind in _NEVER_ENDING or args.max_steps <= args.schedule_steps
    expected = f"at most {args.schedule_steps}, where --lr_scheduler_type {kind} ends (schedule_steps)"
    require(lasts, "--max_steps", expected, args.max_steps)


def resolved(*arguments: Any, hidden: Collection[str] = ()) -> dict[str, Any]:
    """The settings in dataclasses (or `None`) as plain values for `config.yaml`, except `hidden` ones."""
    settings: dict[str, Any] = {}
    for part in arguments:
        if not isinstance(part, TrainingArguments):
            settings |= dataclasses.asdict(part) if part is not None else {}
            continue
        ours = [kind for kind in type(part).__mro__ if issubclass(kind, DebiasingArguments)]
        always = {"seed", *(name for kind in ours for name in kind.__annotations__)} - set(hidden)
        defaults = {field.name: field.default for field in dataclasses.fields(part)}
        for name, value in part.to_dict().items():
            if name in always or (name in _STATED and value != defaults[name]):
                settings[name] = value
        settings["report_to"] = settings["report_to"] or ["none"]
    return settings
