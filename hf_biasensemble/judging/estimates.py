"""Accuracy on bias-aligned and bias-conflicting images, estimated without bias labels (numpy only).

Pseudo-groups stand for the groups of class and bias. As the accuracy over cells of class and bias attribute in uLA
(Tsirigotis et al., 2023, https://huggingface.co/papers/2310.18562) and over inferred groups in XRM (Pezeshki et al.,
2023, https://huggingface.co/papers/2309.16748).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.judging.pseudo_groups import PseudoGroups

GROUPS = ("aligned", "conflicting", "unbiased")
ESTIMATED_ACCURACIES = tuple(f"estimated_{group}_accuracy" for group in GROUPS)
ESTIMATED_PROBABILITIES = tuple(f"estimated_{group}_probability" for group in GROUPS)
ESTIMATES = (*ESTIMATED_ACCURACIES, *ESTIMATED_PROBABILITIES)
RESAMPLES = 2000
_AT_ONCE = 1 << 22  # drawn counts in memory
_LEVELS = 100  # probabilities are resampled in hundredths


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the number of images behind it."""

    value: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % ({100 * self.low:.0f}-{100 * self.high:.0f})"


def group_means(values: np.ndarray, groups: PseudoGroups) -> dict[str, float]:
    """Means of the values by group, each class with the same weight.

    `aligned` over images that members take for their class, `conflicting` over all others, and `unbiased`, 1/K of
    `aligned` and (K - 1)/K of `conflicting`, as if each class came with each of K biases equally often. What has no
    images is left out.

    Args:
        values (`np.ndarray` of shape (R,)): Whether each image is classified correctly, or any other number.
        groups (`PseudoGroups`): Groups of the same images.
    """
    conflicting = groups.is_conflicting
    means = {
        name: _mean_over_classes(values[part], groups.labels[part])
        for name, part in (("aligned", ~conflicting), ("conflicting", conflicting))
        if part.any()
    }
    if len(means) == 2:
        means["unbiased"] = _unbiased(means["aligned"], means["conflicting"], groups.num_classes)
    return means


def estimates(probabilities: np.ndarray, predictions: np.ndarray, groups: PseudoGroups) -> dict[str, float]:
    """`estimated_{aligned,conflicting,unbiased}_accuracy`, and the same as mean probability of the true class.

    Args:
        probabilities (`np.ndarray` of shape (R,)): That the model gives the true class, in [0, 1].
        predictions (`np.ndarray` of shape (R,)): Predicted classes.
        groups (`PseudoGroups`): Groups of the same images.
    """
    correct = np.asarray(predictions) == groups.labels
    accuracy = group_means(correct.astype(np.float64), groups)
    probability = group_means(np.asarray(probabilities, dtype=np.float64), groups)
    return {f"estimated_{name}_accuracy": value for name, value in accuracy.items()} | {
        f"estimated_{name}_probability": value for name, value in probability.items()
    }


def estimated_intervals(
    values: np.ndarray, groups: PseudoGroups, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """[`group_means`] with 95 % intervals of a bootstrap that draws within each of the two groups.

    Where all images of a group are right, or all wrong, resampling has no spread; so an interval is never narrower
    than Wilson's score interval for as many images.

    Args:
        values (`np.ndarray` of shape (R,)): In [0, 1].
        groups (`PseudoGroups`): Groups of the same images.
        resamples (`int`, *optional*, defaults to 2000): Draws.
        seed (`int`, *optional*, defaults to 0): Of the draws.
    """
    means = group_means(values, groups)
    drawn = _resampled(values, groups, resamples, seed)
    conflicting = groups.is_conflicting
    counts = {"aligned": int((~conflicting).sum()), "conflicting": int(conflicting.sum()), "unbiased": len(groups)}
    found: dict[str, Estimate] = {}
    for name, mean in means.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        if name == "unbiased":
            share = 1 / groups.num_classes
            parts = [(share, found["aligned"]), (1 - share, found["conflicting"])]
            below = np.sqrt(sum((weight * (part.value - part.low)) ** 2 for weight, part in parts))
            above = np.sqrt(sum((weight * (part.high - part.value)) ** 2 for weight, part in parts))
            widest = (mean - below, mean + above)
        else:
            widest = wilson_interval(min(max(mean, 0.0), 1.0), counts[name])
        found[name] = Estimate(mean, float(min(low, widest[0])), float(max(high, widest[1])), counts[name])
    return found


def difference(
    values: np.ndarray, others: np.ndarray, groups: PseudoGroups, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """By how much the values exceed those of another model on the same images, by group, with 95 % intervals of a
    paired bootstrap."""
    gained = np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    means, drawn = group_means(gained, groups), _resampled(gained, groups, resamples, seed)
    conflicting = groups.is_conflicting
    counts: Mapping[str, int] = {
        "aligned": int((~conflicting).sum()),
        "conflicting": int(conflicting.sum()),
        "unbiased": len(groups),
    }
    found = {}
    for name, mean in means.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        found[name] = Estimate(mean, float(low), float(high), counts[name])
    return found


def _unbiased(aligned: float, conflicting: float, num_classes: int) -> float:
    return aligned / num_classes + conflicting * (num_classes - 1) / num_classes


def _mean_over_classes(values: np.ndarray, labels: np.ndarray) -> float:
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=values)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def _resampled(values: np.ndarray, groups: PseudoGroups, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Means (resamples,) by group of images drawn with replacement within each group."""
    random = np.random.default_rng(seed)
    conflicting = groups.is_conflicting
    drawn = {
        name: _resampled_means(np.asarray(values)[part], groups.labels[part], resamples, random)
        for name, part in (("aligned", ~conflicting), ("conflicting", conflicting))
        if part.any()
    }
    if len(drawn) == 2:
        share = 1 / groups.num_classes
        drawn["unbiased"] = share * drawn["aligned"] + (1 - share) * drawn["conflicting"]
    return drawn


def _resampled_means(
    values: np.ndarray, labels: np.ndarray, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """Drawing images is drawing how often each class and value comes; so the cost does not grow with the images."""
    width = 2 * _LEVELS + 1
    levels = np.rint(_LEVELS * np.asarray(values, dtype=np.float64)).astype(np.int64) + _LEVELS
    outcomes, counts = np.unique(labels * width + levels, return_counts=True)  # sorted, so classes stand together
    firsts = np.flatnonzero(np.diff(outcomes // width, prepend=-1))
    levels = outcomes % width - _LEVELS
    means = []
    for start in range(0, resamples, step := max(1, _AT_ONCE // len(outcomes))):
        drawn = random.multinomial(len(labels), counts / len(labels), size=min(step, resamples - start))
        number = np.add.reduceat(drawn, firsts, axis=1)
        total = np.add.reduceat(drawn * levels, firsts, axis=1) / _LEVELS
        means.append((total / np.maximum(number, 1)).sum(axis=1) / (number > 0).sum(axis=1))
    return np.concatenate(means)
