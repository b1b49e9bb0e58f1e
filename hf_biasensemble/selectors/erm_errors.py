"""The first stage of JTT: images that a briefly trained ERM classifier gets wrong count as bias-conflicting."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from hf_biasensemble.arguments import SelectionArguments, SelectorArguments
from hf_biasensemble.arguments.descriptors import Selector
from hf_biasensemble.arguments.options import PositiveInt, option
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors.bias_ensemble import member_trainer
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer


@dataclass
class ErmErrorsArguments(SelectorArguments):
    """Options of JTT's first stage."""

    _argument_group_name: ClassVar[str] = "selection: errors of a first classifier"

    first_stage_steps: PositiveInt = option(
        300, "Optimisation steps of the first classifier, 1 or more; JTT's T, in steps instead of epochs."
    )


def _select_correct(selection: Selection) -> Selection:
    """Selects the images that the classifier gets right."""
    right = np.asarray(selection.predicted_labels) == selection.labels
    return replace(selection, votes=right.astype(selection.votes.dtype), is_selected=right)


def _trainer(model_args: Any, selection_args: ErmErrorsArguments, *others: Any) -> BiasEnsembleTrainer:
    steps = selection_args.first_stage_steps
    alone = SelectionArguments(num_members=1, member_agreement=1, member_steps=steps, balance_members=False)
    return member_trainer(model_args, alone, *others, loss=cross_entropy, rule=_select_correct)


def _check(selection: Selection, class_names: list[str]) -> None:
    right, total = int(selection.is_selected.sum()), len(selection.index)
    if right in (0, total):
        raise BiasEnsembleError(
            f"the first classifier: expected some training images right and some wrong, found all {total} "
            + ("right; lower --first_stage_steps" if right else "wrong; raise --first_stage_steps")
        )


SELECTOR = Selector(
    name="erm_errors",
    title="First classifier",
    trainer=_trainer,
    arguments=ErmErrorsArguments,
    check=_check,
    about=(
        "An ordinary classifier is trained for {first_stage_steps} steps. The training images that it gets wrong are "
        "assumed to contradict the shortcut."
    ),
)
