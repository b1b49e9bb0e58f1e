"""Accuracy overall, on bias-aligned and bias-conflicting samples, and by group."""

import numpy as np

METRICS = (
    "accuracy",
    "aligned_accuracy",
    "conflicting_accuracy",
    "unbiased_accuracy",
    "worst_group_accuracy",
    "ac_score",
)


def bias_accuracy(
    predictions: np.ndarray,
    labels: np.ndarray,
    bias_labels: np.ndarray | None = None,
    is_conflicting: np.ndarray | None = None,
) -> dict[str, float]:
    """Computes accuracy overall, where the bias helps, and where it misleads.

    Args:
        predictions (`np.ndarray` of shape (N,)): Predicted classes.
        labels (`np.ndarray` of shape (N,)): True classes.
        bias_labels (`np.ndarray` of shape (N,), *optional*): Bias attribute of each sample; -1 if unknown.
        is_conflicting (`np.ndarray` of shape (N,), *optional*): Whether each sample is bias-conflicting.

    Returns:
        `dict[str, float]`: `accuracy`; with `is_conflicting` also `aligned_accuracy`, `conflicting_accuracy` and their
        harmonic mean `ac_score`; with either, `unbiased_accuracy` and `worst_group_accuracy`, the mean and minimum
        over the non-empty groups of label and bias label or, without bias labels, of label and conflict. Groups
        without samples are omitted, never 0. Samples with unknown bias label count in `accuracy` only.

    Raises:
        `ValueError`: If there are no samples, or the lengths differ.
    """
    given = [array for array in (predictions, labels, bias_labels, is_conflicting) if array is not None]
    lengths = {len(array) for array in given}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"expected arrays of one length above 0, found lengths {sorted(lengths)}")
    correct, groups, cells = _grouped(predictions, labels, bias_labels, is_conflicting)
    metrics = {name: float(correct[group].mean()) for name, group in groups.items()}
    if cells is not None:
        _, accuracy, _ = cells
        metrics |= {"unbiased_accuracy": float(accuracy.mean()), "worst_group_accuracy": float(accuracy.min())}
    if "aligned_accuracy" in metrics and "conflicting_accuracy" in metrics:
        aligned, conflicting = metrics["aligned_accuracy"], metrics["conflicting_accuracy"]
        metrics["ac_score"] = 2 * aligned * conflicting / (aligned + conflicting) if aligned + conflicting else 0.0
    return metrics


Cells = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The result of [`accuracy_by_group`]."""


def _grouped(
    predictions: np.ndarray, labels: np.ndarray, bias_labels: np.ndarray | None, is_conflicting: np.ndarray | None
) -> tuple[np.ndarray, dict[str, np.ndarray], Cells | None]:
    """Whether each prediction is correct, the samples of each accuracy, and accuracy by group."""
    correct = np.asarray(predictions) == np.asarray(labels)
    known = np.ones_like(correct) if bias_labels is None else np.asarray(bias_labels) >= 0
    groups = {"accuracy": np.ones_like(correct)}
    if is_conflicting is not None:
        conflicting = np.asarray(is_conflicting, dtype=bool)
        groups |= {"aligned_accuracy": ~conflicting & known, "conflicting_accuracy": conflicting & known}
    attribute, cells = is_conflicting if bias_labels is None else bias_labels, None
    if attribute is not None and known.any():
        cells = accuracy_by_group(*(np.asarray(each)[known] for each in (predictions, labels, attribute)))
    return correct, {name: group for name, group in groups.items() if group.any()}, cells


def accuracy_by_group(predictions: np.ndarray, labels: np.ndarray, attribute: np.ndarray) -> Cells:
    """Label and attribute (G, 2), accuracy (G,) and number of samples (G,) of each non-empty group of label and
    attribute. The attribute (N,) is the bias label, or whether a sample is bias-conflicting."""
    labels, attribute = np.asarray(labels).astype(np.int64), np.asarray(attribute).astype(np.int64)
    lowest, width = attribute.min(), np.ptp(attribute) + 1
    cells, cell, counts = np.unique(labels * width + attribute - lowest, return_inverse=True, return_counts=True)
    accuracy = np.bincount(cell, weights=np.asarray(predictions) == labels) / counts
    return np.stack([cells // width, cells % width + lowest], axis=1), accuracy, counts


def accuracy_intervals(
    predictions: np.ndarray,
    labels: np.ndarray,
    bias_labels: np.ndarray | None = None,
    is_conflicting: np.ndarray | None = None,
) -> dict[str, tuple[float, float, int]]:
    """95% confidence intervals of the metrics of [`bias_accuracy`] except `ac_score`: both ends in [0, 1] and the
    number of images.

    These are Wilson score intervals; a normal one for `unbiased_accuracy`, a mean of fractions. The interval of the
    worst group is biased downwards, since the group was selected for its low accuracy.
    """
    correct, groups, cells = _grouped(predictions, labels, bias_labels, is_conflicting)
    intervals = {
        metric: (*wilson_interval(float(correct[group].mean()), int(group.sum())), int(group.sum()))
        for metric, group in groups.items()
    }
    if cells is not None:
        _, accuracy, counts = cells
        # Two more correct and incorrect images per group (Agresti and Coull), or tiny groups would have no variance.
        adjusted = (accuracy * counts + 2) / (counts + 4)
        half = 1.96 * float(np.sqrt((adjusted * (1 - adjusted) / (counts + 4)).sum())) / len(counts)
        mean = float(accuracy.mean())
        intervals["unbiased_accuracy"] = (max(0.0, mean - half), min(1.0, mean + half), int(counts.sum()))
        lowest, count = float(accuracy.min()), int(counts[accuracy.argmin()])
        intervals["worst_group_accuracy"] = (*wilson_interval(lowest, count), count)
    return intervals


def wilson_interval(share: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a fraction of `count` samples, both ends in [0, 1]; 95% with the default `z`."""
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return max(0.0, centre - half), min(1.0, centre + half)
