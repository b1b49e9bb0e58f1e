"""Everything a run can be told: options by subject, the strict parser, and what `config.yaml` states of them."""

from hf_biasensemble.arguments.config_file import resolved
from hf_biasensemble.arguments.data import DataArguments
from hf_biasensemble.arguments.inference import InferenceArguments
from hf_biasensemble.arguments.model import ModelArguments
from hf_biasensemble.arguments.options import option
from hf_biasensemble.arguments.parser import parse_arguments
from hf_biasensemble.arguments.selection import SelectionArguments, SelectorArguments
from hf_biasensemble.arguments.steps import settle_steps, steps_of_epochs
from hf_biasensemble.arguments.training import (
    CHECKPOINT_CHOICES,
    DebiasingArguments,
    member_arguments,
    settled_network,
    settled_selection,
)

__all__ = [
    "CHECKPOINT_CHOICES",
    "DataArguments",
    "DebiasingArguments",
    "InferenceArguments",
    "ModelArguments",
    "SelectionArguments",
    "SelectorArguments",
    "member_arguments",
    "option",
    "parse_arguments",
    "resolved",
    "settle_steps",
    "settled_network",
    "settled_selection",
    "steps_of_epochs",
]
