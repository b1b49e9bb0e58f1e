"""How hard the training samples are for the biased and the debiased model, on average over groups (numpy only)."""

from collections.abc import Mapping

import numpy as np

DIFFICULTIES = ("relative_difficulty", "biased_loss", "debiased_loss")
"""Relative difficulty of a sample, and its scaled loss under the biased and under the debiased model."""

DIFFICULTY_METRICS = tuple(f"{group}{name}" for name in DIFFICULTIES for group in ("", "aligned_", "conflicting_"))


def mean_difficulty(values: Mapping[str, np.ndarray], is_conflicting: np.ndarray | None = None) -> dict[str, float]:
    """Means of values (N,) in [0, 1] over the bias-aligned and over the bias-conflicting samples.

    Returns `aligned_{name}` and `conflicting_{name}` for each name out of `DIFFICULTIES`, or `{name}` over all samples
    where `is_conflicting` (N,) is unknown. A group without samples is omitted, never 0.
    """
    if is_conflicting is None:
        groups = {"": np.ones(len(next(iter(values.values()))), dtype=bool)}
    else:
        groups = {"aligned_": ~is_conflicting, "conflicting_": is_conflicting}
    return {
        f"{group}{name}": float(column[members].mean(dtype=np.float64))
        for name, column in values.items()
        for group, members in groups.items()
        if members.any()
    }
