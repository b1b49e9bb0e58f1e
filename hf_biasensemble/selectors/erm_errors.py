"""The first stage of JTT: what a briefly trained ordinary classifier gets wrong is taken to be bias-conflicting."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from transformers import TrainerCallback

from hf_biasensemble.arguments import DebiasingArguments, ModelArguments, SelectionArguments
from hf_biasensemble.arguments.descriptors import Selector
from hf_biasensemble.arguments.options import Options, PositiveInt, option
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import training_transform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.models.build import build_members
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors.bias_ensemble import votes_depend_on
from hf_biasensemble.selectors.making import member_arguments
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer


@dataclass
class ErmErrorsArguments(Options):
    """JTT's first stage: an ordinary classifier, trained briefly."""

    _argument_group_name: ClassVar[str] = "selection: errors of a first classifier"
    sways_no_vote: ClassVar[frozenset[str]] = frozenset({"selection_dir"})

    first_stage_steps: PositiveInt = option(
        300, "Optimisation steps of the first classifier, 1 or more; JTT's number of epochs T, here in steps."
    )
    selection_dir: str | None = option(
        None,
        "Folder for sharing a selection between runs: reused if made from the same data and settings, else saved.",
    )


def errors(made: Selection) -> Selection:
    """The selection whose set holds what the classifier gets right; its errors are outside."""
    right = np.asarray(made.predicted_labels) == made.labels
    return replace(made, votes=right.astype(made.votes.dtype), is_selected=right)


def _trainer(
    model_args: ModelArguments,
    selection_args: ErmErrorsArguments,
    args: DebiasingArguments,
    splits: dict[str, ImageSplit],
    callbacks: Sequence[TrainerCallback],
) -> BiasEnsembleTrainer:
    return BiasEnsembleTrainer(
        build_members(model_args, splits["train"].class_names, 1, args.seed),
        member_arguments(args, selection_args.first_stage_steps, args.learning_rate, args.per_device_train_batch_size),
        training_transform(splits["train"], model_args),
        SelectionArguments(num_members=1, member_agreement=1, balance_members=False),
        train_dataset=splits["train"],
        callbacks=list(callbacks),
        loss=cross_entropy,
        rule=errors,
    )


def _check(selection: Selection, class_names: list[str]) -> None:
    if selection.is_selected.all() or not selection.is_selected.any():
        raise BiasEnsembleError(
            f"the first classifier: expected some training images right and some wrong, found all "
            f"{len(selection.index)} {'right' if selection.is_selected.all() else 'wrong'}; "
            f"{'lower' if selection.is_selected.all() else 'raise'} --first_stage_steps"
        )


def _settings(model_args: ModelArguments, selection_args: Any, args: DebiasingArguments) -> dict[str, Any]:
    return {"selector": "erm_errors", **votes_depend_on(model_args, selection_args, args)}


ERM_ERRORS = Selector(
    name="erm_errors",
    title="First classifier",
    arguments=ErmErrorsArguments,
    settings=_settings,
    trainer=_trainer,
    check=_check,
    about=(
        "An ordinary classifier is trained for {first_stage_steps} steps. The training images that it then gets wrong "
        "are taken to be those that a shortcut misleads."
    ),
)
