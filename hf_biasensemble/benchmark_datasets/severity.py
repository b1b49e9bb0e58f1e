"""Severities such as "1pct", and seeded draws that keep class proportions."""

import math
import re
import zlib
from decimal import Decimal
from fractions import Fraction

import numpy as np

from hf_biasensemble.internal.errors import BiasEnsembleError


def parse_severity(text: str) -> tuple[str, Fraction]:
    """Parses "<number>pct", 0 < number < 100, into its shortest name ("1.0pct" becomes "1pct") and the fraction."""
    number = re.search(r"\d+(?:\.\d*)?|\.\d+", text)
    percent = Decimal(number[0]).normalize() if number else Decimal(0)
    near = f"{percent:f}pct" if 0 < percent < 100 else "1pct"
    if not re.fullmatch(r"\d+(\.\d+)?pct", text) or not 0 < percent < 100:
        raise BiasEnsembleError(
            f"expected a severity of the form '<number>pct' with 0 < number < 100, found {text!r}; try {near!r}"
        )
    return near, Fraction(percent) / 100


def random_generator(seed: int, purpose: str) -> np.random.Generator:
    """An independent stream for each purpose, so no split or config depends on the others."""
    if seed < 0:
        raise BiasEnsembleError(f"expected --seed of 0 or more, found {seed}; use another seed")
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def apportion(total: int, sizes: np.ndarray) -> np.ndarray:
    """Divides `total` among classes in proportion to their sizes, by largest remainders."""
    quotas = [Fraction(total * int(size), int(sizes.sum())) for size in sizes]
    counts = np.array([math.floor(quota) for quota in quotas])
    by_remainder = sorted(range(len(sizes)), key=lambda c: -(quotas[c] % 1))  # stable: ties go to the lower class
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def draw(labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sorted rows of `counts[c]` random samples of each class c, without replacement."""
    rows = [rng.choice(np.flatnonzero(labels == c), count, replace=False) for c, count in enumerate(counts)]
    return np.sort(np.concatenate(rows))


def draw_by_class(labels: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted rows of `total` random samples with the class proportions of `labels`."""
    return draw(labels, apportion(total, np.bincount(labels)), rng)
