"""Accuracy on bias-aligned and bias-conflicting images, estimated without bias labels.

Pseudo-groups replace the groups of class and bias, as in uLA (Tsirigotis et al., 2023,
https://huggingface.co/papers/2310.18562) and XRM (Pezeshki et al., 2023, https://huggingface.co/papers/2309.16748).
All estimates are weighted sums over images in which each class has the same weight.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, permutation_test

from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.judging.pseudo_groups import PseudoGroups

GROUPS = ("aligned", "conflicting", "unbiased")
ESTIMATES = tuple(f"estimated_{group}_{kind}" for kind in ("accuracy", "probability") for group in GROUPS)
FEWEST_OF_CLASS = 3
"""Minimum number of images of a class in a group for comparing models on it."""
SIGNIFICANCE = 0.05
_DRAWS = 1999  # random sign flips; with up to 10 images, all of them
_MANY = 1000  # from this many images on, the sum under random signs is close to normal
_Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, and the number of images behind it."""

    value: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        return f"{100 * self.value:.0f}% ({100 * self.low:.0f}-{100 * self.high:.0f})"


def group_weights(groups: PseudoGroups, fewest: int = 1) -> dict[str, np.ndarray]:
    """Weights (R,) of the images by group, summing to 1, with the same weight for each class.

    A group omits classes of fewer than `fewest` images; groups without images are omitted. `unbiased` is 1/K of
    `aligned` and (K - 1)/K of `conflicting`, as if each class came with each of K biases equally often.
    """
    weights = {}
    for name, part in (("aligned", ~groups.is_conflicting), ("conflicting", groups.is_conflicting)):
        counts = np.bincount(groups.labels[part], minlength=groups.num_classes)
        counted = part & (counts >= fewest)[groups.labels]
        if counted.any():
            weights[name] = np.where(counted, 1 / (np.maximum(counts, 1) * (counts >= fewest).sum())[groups.labels], 0)
    if len(weights) == 2:
        share = 1 / groups.num_classes
        weights["unbiased"] = share * weights["aligned"] + (1 - share) * weights["conflicting"]
    return weights


def group_means(values: np.ndarray, groups: PseudoGroups) -> dict[str, float]:
    """Means of values (R,) by group."""
    return {name: float(weights @ values) for name, weights in group_weights(groups).items()}


def estimates(probabilities: np.ndarray, predictions: np.ndarray, groups: PseudoGroups) -> dict[str, float]:
    """Computes [`ESTIMATES`] from probabilities of the true class (R,) and predicted classes (R,)."""
    measured = {"accuracy": predictions == groups.labels, "probability": probabilities}
    return {
        f"estimated_{name}_{kind}": mean
        for kind, values in measured.items()
        for name, mean in group_means(values.astype(np.float64), groups).items()
    }


def estimated_intervals(values: np.ndarray, groups: PseudoGroups) -> dict[str, Estimate]:
    """[`group_means`] of values (R,) in [0, 1] with 95% confidence intervals.

    Wilson's score interval with the effective sample size of a weighted mean (Kish, 1965). The interval of `unbiased`
    follows from those of its two parts (Zou and Donner, 2008).
    """
    found: dict[str, Estimate] = {}
    for name, weights in group_weights(groups).items():
        mean = min(max(float(weights @ values), 0.0), 1.0)
        if name == "unbiased":
            share = 1 / groups.num_classes
            parts = [(share, found["aligned"]), (1 - share, found["conflicting"])]
            low = mean - float(np.sqrt(sum((part * (of.value - of.low)) ** 2 for part, of in parts)))
            high = mean + float(np.sqrt(sum((part * (of.high - of.value)) ** 2 for part, of in parts)))
        else:
            low, high = wilson_interval(mean, float(1 / (weights**2).sum()))
        found[name] = Estimate(mean, min(low, mean), max(high, mean), int((weights > 0).sum()))
    return found


def paired_difference(gained: np.ndarray, weights: np.ndarray) -> Estimate:
    """The weighted mean difference between two models, from weighted differences (R,) and weights (R,) that sum to 1.

    Its 95% confidence interval contains the means that the normal approximation of a paired sign-flip test does not
    reject, and 0 unless [`p_value`] is significant.
    """
    mean, images = float(gained.sum()), int((weights > 0).sum())
    # |mean - x| <= z sqrt(sum (gained - x weights)^2), solved for x.
    squared = 1 - _Z**2 * float((weights**2).sum())
    linear, constant = mean - _Z**2 * float(gained @ weights), mean**2 - _Z**2 * float((gained**2).sum())
    low, high = -1.0, 1.0
    if squared > 0:
        half = float(np.sqrt(max(linear**2 - squared * constant, 0)))
        low, high = max(-1.0, (linear - half) / squared), min(1.0, (linear + half) / squared)
    if p_value(gained) >= SIGNIFICANCE:
        low, high = min(low, 0.0), max(high, 0.0)
    return Estimate(mean, min(low, mean), max(high, mean), images)


def p_value(gained: np.ndarray) -> float:
    """Two-sided p-value of the paired sign-flip test on weighted differences (R,); exact if at most 10 are not 0."""
    differing = gained[gained != 0]
    if len(differing) < 2:  # both signs are equally far from 0
        return 1.0
    if len(differing) > _MANY:
        return float(2 * norm.sf(abs(differing.sum()) / np.sqrt((differing**2).sum())))
    tested = permutation_test(
        (differing,),
        lambda signed, axis: signed.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_DRAWS,
        rng=0,
    )
    return float(tested.pvalue)
