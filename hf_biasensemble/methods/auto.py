"""Judges several methods by cross-validation without bias labels, and trains the best one."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from hf_biasensemble.arguments import DebiasingArguments, option
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.options import Allowed
from hf_biasensemble.internal.errors import require
from hf_biasensemble.methods.erm import ErmTrainer
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE


@dataclass
class AutoArguments(DebiasingArguments):
    """Options of the choice between methods."""

    _argument_group_name: ClassVar[str] = "method: choice by folds"

    candidates: list[str] = option(
        ["erm", "logit_adjusted:adjustment=soft,adjustment_tau=2", "logit_adjusted", "lff_be"],
        "Methods to choose from: first the baseline, then the others in order of preference, which breaks ties; "
        "METHOD:OPTION=VALUE sets an option of a method.",
    )
    folds: Annotated[int, Allowed("at least 2", lambda value: value >= 2)] = option(
        5, "Number of folds; each candidate is trained without each fold in turn and judged on it."
    )
    accept_loss: Annotated[float, Allowed("in [0, 100]", lambda value: 0 <= value <= 100)] = option(
        3.0,
        "Cross-validated accuracy that a candidate may lose against the first one, in percentage points, 0 to 100.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        names = " ".join(self.candidates)
        require(len(self.candidates) >= 2, "--candidates", "at least two methods", names or "none")
        require(len(set(self.candidates)) == len(self.candidates), "--candidates", "different ones", names)
        require(not self.published_protocol, "--published_protocol", "false with --method auto", True)

    def settled_members(self, selection_args: Any) -> Any:
        """Makes members see all classes equally often and vote on images they never saw, to rank the candidates."""
        require(selection_args.cross_fit is not False, "--cross_fit", "true, so that members can judge", False)
        kept = selection_args.keep_member  # folds have no validation split
        require(kept == "last", "--keep_member", "last with --method auto", kept)
        balanced = selection_args.balance_members is not False
        return replace(selection_args, cross_fit=True, balance_members=balanced)


METHOD = Method(
    name="auto",
    title="Choice by folds",
    trainer=ErmTrainer,
    arguments=AutoArguments,
    network=classifier_alone,
    selector=BIAS_ENSEMBLE,
    needs_set=False,
    unused=frozenset({"selector", "selector_file"}),
    baseline="erm",
    chooses=True,
)
