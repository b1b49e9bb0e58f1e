"""Mean difficulty of training samples for the biased and the debiased model, by group."""

from collections.abc import Mapping

import numpy as np

DIFFICULTIES = ("relative_difficulty", "biased_loss", "debiased_loss")
"""Relative difficulty of a sample, and its scaled losses under both models."""

DIFFICULTY_METRICS = tuple(f"{group}{name}" for name in DIFFICULTIES for group in ("", "aligned_", "conflicting_"))


def mean_difficulty(values: Mapping[str, np.ndarray], is_conflicting: np.ndarray | None = None) -> dict[str, float]:
    """Means `aligned_{name}` and `conflicting_{name}` of the values (N,) of each name in `DIFFICULTIES`, or `{name}`
    over all samples without `is_conflicting` (N,). Groups without samples are omitted, never 0."""
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
