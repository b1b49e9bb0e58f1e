"""How an option is declared, and how one of its values is refused."""

import math
from dataclasses import field
from typing import Any

from hf_biasensemble.internal.errors import BiasEnsembleError


def option(default: Any, help: str) -> Any:
    """A dataclass field with its text for `--help`."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require(holds: bool, option: str, expected: str, found: Any) -> None:
    """Raises `BiasEnsembleError` unless the value of an option is as expected."""
    if not holds:
        raise BiasEnsembleError(f"{option}: expected {expected}, found {found}")


def require_steps(option: str, steps: float) -> None:
    """Raises `BiasEnsembleError` unless this is a number of steps or, below 1, a fraction of `max_steps`."""
    valid = 0 <= steps < 1 or (math.isfinite(steps) and steps == int(steps) > 0)
    require(valid, option, "a whole number of steps, or a fraction of max_steps in [0, 1)", steps)
