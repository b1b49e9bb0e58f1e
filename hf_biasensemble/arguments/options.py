"""Declaring options, and checking their values."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from hf_biasensemble.internal.errors import require


@dataclass(frozen=True)
class Allowed:
    """A constraint on the value of an option, in words and as a predicate, for `Annotated`; `None` always passes."""

    words: str
    holds: Callable[[Any], bool]


AT_LEAST_1 = Allowed("at least 1", lambda value: value >= 1)
NOT_NEGATIVE = Allowed("0 or more", lambda value: 0 <= value < math.inf)
PositiveInt = Annotated[int, AT_LEAST_1]
NonNegativeInt = Annotated[int, NOT_NEGATIVE]
PositiveFloat = Annotated[float, Allowed("above 0", lambda value: 0 < value < math.inf)]
NonNegativeFloat = Annotated[float, NOT_NEGATIVE]
Fraction = Annotated[float, Allowed("in [0, 1)", lambda value: 0 <= value < 1)]
PositiveFraction = Annotated[float, Allowed("in (0, 1]", lambda value: 0 < value <= 1)]
Steps = Annotated[
    float,
    Allowed(
        "a whole number of steps, or a fraction of max_steps in [0, 1)",
        lambda value: 0 <= value < 1 or (math.isfinite(value) and value == int(value) > 0),
    ),
]


def one_of(*values: str) -> Allowed:
    """One of these values."""
    return Allowed(f"one of {', '.join(values)}", lambda value: value in values)


def option(default: Any, help: str) -> Any:
    """A dataclass field with its default and its help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def check_options(arguments: Any) -> None:
    """Raises `BiasEnsembleError` if the value of a field violates the `Allowed` in its type."""
    for name, allowed in _allowed(arguments.__class__):
        value = getattr(arguments, name)
        require(value is None or allowed.holds(value), f"--{name}", allowed.words, value)


class Options:
    """Base of dataclasses of options; checks the values on creation."""

    def __post_init__(self) -> None:
        check_options(self)


@cache
def _allowed(kind: Any) -> list[tuple[str, Allowed]]:
    """The constraints in the types of the fields, also within unions such as `PositiveInt | None`."""
    found = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        parts = [of for part in (hint, *get_args(hint)) for of in getattr(part, "__metadata__", ())]
        found += [(name, part) for part in parts if isinstance(part, Allowed)]
    return found
