"""How many images are bias-conflicting, and which: severities by name, and seeded draws fair to all classes."""

import math
import re
import zlib
from decimal import Decimal
from fractions import Fraction

import numpy as np

from hf_biasensemble.internal.errors import BiasEnsembleError


def parse_severity(text: str) -> tuple[str, Fraction]:
    """Read a severity such as "0.5pct".

    Args:
        text: "<number>pct" with 0 < number < 100.

    Returns:
        The name in its shortest form ("1.0pct" is "1pct") and the fraction (1/100).

    Raises:
        BiasEnsembleError: the text has another form or is out of range.
    """
    number = re.search(r"\d+(?:\.\d*)?|\.\d+", text)
    percent = Decimal(number[0]).normalize() if number else Decimal(0)
    near = f"{percent:f}pct" if 0 < percent < 100 else "1pct"
    if not re.fullmatch(r"\d+(\.\d+)?pct", text) or not 0 < percent < 100:
        raise BiasEnsembleError(
            f"expected a severity of the form '<number>pct' with 0 < number < 100, found {text!r}; try {near!r}"
        )
    return near, Fraction(percent) / 100


def random_generator(seed: int, purpose: str) -> np.random.Generator:
    """One independent stream per purpose, so that no split or config depends on what else is made.

    Raises:
        BiasEnsembleError: `seed` is negative.
    """
    if seed < 0:
        raise BiasEnsembleError(f"expected --seed of 0 or more, found {seed}; use another seed")
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def apportion(total: int, sizes: np.ndarray) -> np.ndarray:
    """Divide `total` among classes in proportion to their sizes by the method of largest remainders."""
    quotas = [Fraction(total * int(size), int(sizes.sum())) for size in sizes]
    counts = np.array([math.floor(quota) for quota in quotas])
    by_remainder = sorted(range(len(sizes)), key=lambda c: -(quotas[c] % 1))  # stable: ties go to the lower class
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def draw(labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of `counts[c]` random samples of every class c, none twice; sorted."""
    rows = [rng.choice(np.flatnonzero(labels == c), count, replace=False) for c, count in enumerate(counts)]
    return np.sort(np.concatenate(rows))


def draw_by_class(labels: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a random subset of `total` samples that has the class proportions of `labels`; sorted."""
    return draw(labels, apportion(total, np.bincount(labels)), rng)
