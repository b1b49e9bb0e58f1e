"""BiasEnsemble as a selector: which settings its votes depend on, and the trainer of its members."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.arguments import DebiasingArguments, ModelArguments, SelectionArguments
from hf_biasensemble.arguments.descriptors import Selector
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import training_transform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.build import build_members
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors.making import member_arguments
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

TRAINING_OPTIONS = (
    *(
        "seed",
        "data_seed",
        "learning_rate",
        "backbone_learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
    ),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "gradient_accumulation_steps"),
    *("dataloader_drop_last", "bf16", "fp16"),
)
"""Of training, what members are trained with."""


def votes_depend_on(model_args: ModelArguments, selection_args: Any, args: DebiasingArguments) -> dict[str, Any]:
    """All settings that votes depend on: batches, training, and each option of model and selector that sways them."""
    settings: dict[str, Any] = {"batch_size": args.per_device_train_batch_size * args.world_size}
    settings |= {name: getattr(args, name) for name in TRAINING_OPTIONS}
    for part in (selection_args, model_args):
        settings |= {f.name: getattr(part, f.name) for f in fields(part) if f.name not in part.sways_no_vote}
    return json.loads(json.dumps(settings, default=str))


def _of_members(
    model_args: ModelArguments, selection_args: SelectionArguments, args: DebiasingArguments
) -> tuple[float, float, int]:
    """Learning rate, image scale and batch size per process of the members: their own, or else those of the run."""
    return (
        selection_args.member_learning_rate or args.learning_rate,
        selection_args.member_image_scale or model_args.image_scale,
        selection_args.member_batch_size or args.per_device_train_batch_size,
    )


def _settings(
    model_args: ModelArguments, selection_args: SelectionArguments, args: DebiasingArguments
) -> dict[str, Any]:
    rate, scale, batch_size = _of_members(model_args, selection_args, args)
    settings = votes_depend_on(model_args, selection_args, args)
    for name in ("learning_rate", "image_scale", "batch_size"):
        del settings[f"member_{name}"]
    return settings | {"learning_rate": rate, "image_scale": scale, "batch_size": batch_size * args.world_size}


def _trainer(
    model_args: ModelArguments,
    selection_args: SelectionArguments,
    args: DebiasingArguments,
    splits: dict[str, ImageSplit],
    callbacks: Sequence[TrainerCallback],
) -> BiasEnsembleTrainer:
    if selection_args.keep_member == "best" and "validation" not in splits:
        raise BiasEnsembleError("--keep_member best: expected a validation split to choose by, found none; use last")
    rate, scale, batch_size = _of_members(model_args, selection_args, args)
    networks = selection_args.num_members * (2 if selection_args.cross_fit else 1)
    return BiasEnsembleTrainer(
        build_members(model_args, splits["train"].class_names, networks, args.seed),
        member_arguments(args, selection_args.member_steps, rate, batch_size),
        training_transform(splits["train"], replace(model_args, image_scale=scale)),
        selection_args,
        train_dataset=splits["train"],
        eval_dataset={name: split for name, split in splits.items() if name == "validation"},
        callbacks=list(callbacks),
    )


BIAS_ENSEMBLE = Selector(
    name="bias_ensemble",
    title="BiasEnsemble members",
    arguments=SelectionArguments,
    settings=_settings,
    trainer=_trainer,
    check=Selection.check,
    judges=True,
    about=(
        "BiasEnsemble ([Lee et al., 2023](https://huggingface.co/papers/2205.14594)): {num_members} biased networks "
        "are trained for {member_steps} steps each. An image of whose true class at least {member_agreement} of them "
        "are more than {member_threshold} sure goes into the bias-amplified set, since a network that has seen so "
        "little tends to be sure for the shortcut's sake."
    ),
    citations=(
        """\
@inproceedings{lee2023biasensemble,
  title     = {Revisiting the Importance of Amplifying Bias for Debiasing},
  author    = {Lee, Jungsoo and Park, Jeonghoon and Kim, Daeyoung and Lee, Juyoung and Choi, Edward and Choo, Jaegul},
  booktitle = {AAAI},
  year      = {2023}
}""",
    ),
)

MEMBER_PREDICTIONS = replace(BIAS_ENSEMBLE, check=lambda selection, class_names: None)
"""The same members, for methods that need what they predict and no bias-amplified set, which may then be anything."""
