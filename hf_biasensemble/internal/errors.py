"""The one exception type of the library."""

from collections.abc import Collection, Mapping
from typing import Any


class BiasEnsembleError(ValueError):
    """A mistake in the input that the user can fix.

    The message is one line with what was expected, what was found and what to do. Commands print it without a
    traceback and exit with status 2.
    """


def require(holds: bool, option: str, expected: str, found: Any) -> None:
    """Raises `BiasEnsembleError` with the message "{option}: expected {expected}, found {found}" unless `holds`."""
    if not holds:
        raise BiasEnsembleError(f"{option}: expected {expected}, found {found}")


def missing_package(package: str, extra: str) -> BiasEnsembleError:
    """The error for a missing optional package, which the `extra` of this library installs."""
    return BiasEnsembleError(
        f"expected the package {package}, found none; pip install 'hf_biasensemble[{extra}]', "
        f"or in a checkout pip install '.[{extra}]'"
    )


def reason_of(error: BaseException, limit: int | None = None) -> str:
    """The message of an exception in one line of at most `limit` characters, or its type if it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def differences(then: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """Differences between existing and requested settings, worded for an error message."""
    return [
        f"{name} (then: {then.get(name)}, now: {now.get(name)})"
        for name in sorted(then.keys() | now.keys())
        if name not in ignored and then.get(name) != now.get(name)
    ]
