"""Sizes such as "4GB"."""

import re

from hf_biasensemble.internal.errors import BiasEnsembleError


def size_in_bytes(text: str, option: str) -> int:
    """Parses a size such as "4GB", "1.5 kB", "2MiB" or "123" bytes; 1 kB is 1000 bytes, 1 KiB 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    if match is None:
        raise BiasEnsembleError(f"{option}: expected bytes, such as 4GB, 500MB or 0, found {text!r}")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit or " "))
