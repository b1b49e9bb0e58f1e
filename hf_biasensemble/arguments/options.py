"""How an option is declared, and how one of its values is refused."""

from dataclasses import field
from typing import Any

from hf_biasensemble.errors import BiasEnsembleError


def option(default: Any, help: str) -> Any:
    """A dataclass field with its text for `--help`."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require(holds: bool, option: str, expected: str, found: Any) -> None:
    """Raises `BiasEnsembleError` unless the value of an option is as expected."""
    if not holds:
        raise BiasEnsembleError(f"{option}: expected {expected}, found {found}")
