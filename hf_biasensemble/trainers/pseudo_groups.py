"""Pseudo-groups of class and members' prediction, and sampling that balances them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Sampler

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.arguments.options import one_of, option
from hf_biasensemble.data.batches.sampling import WeightedSampler
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.base import DebiasingTrainer

MOST_DRAWS = 20
"""How often an image is drawn at most, relative to uniform draws: a group of one image must not dominate."""


@dataclass
class PseudoGroupArguments(DebiasingArguments):
    """Options of methods on pseudo-groups."""

    _argument_group_name: ClassVar[str] = "method: pseudo-groups"

    pseudo_groups: Annotated[str, one_of("selected", "predicted")] = option(
        "predicted",
        "Group the images of each class by predicted (the class that the members predict) or selected (whether the "
        "image is in the bias-amplified set).",
    )


class PseudoGroupTrainer(DebiasingTrainer):
    """Draws all classes equally often, and all pseudo-groups of a class; see [`balanced_weights`].

    Args:
        selection (`Selection`): The members' votes on the training split.

    Attributes:
        groups: int64 (N,), pseudo-group of each row of the training split, in [0, num_groups).
    """

    def __init__(self, *args: Any, selection: Selection, **kwargs: Any):
        super().__init__(*args, **kwargs)
        labels, rows = self.train_dataset.labels, self.train_dataset.rows.numpy()
        groups, num_groups = selection.pseudo_groups(self.args.pseudo_groups, len(labels))
        self.groups = torch.from_numpy(groups).to(self.args.device)
        self.group_samples(self.groups, num_groups)
        weights = balanced_weights(groups[rows], labels.numpy()[rows])
        self.sampler = WeightedSampler(torch.from_numpy(weights), self.args.seed)

    def train_sampler(self) -> Sampler | None:
        return self.sampler


def balanced_weights(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability (N,) of drawing each sample if a class is drawn uniformly and then one of its groups.

    It is capped at `MOST_DRAWS / N`; small groups and classes pass the excess on to larger ones. Each group (N,) has
    samples of a single class, given by `labels` (N,).
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    class_of = np.empty(len(sizes), dtype=np.int64)
    class_of[group] = labels
    limits = sizes * MOST_DRAWS / len(labels)
    by_class = np.argsort(class_of, kind="stable")
    classes = np.split(by_class, np.flatnonzero(np.diff(class_of[by_class])) + 1)
    mass = np.empty(len(sizes))
    for own, total in zip(classes, _split_evenly(1.0, np.array([limits[own].sum() for own in classes])), strict=True):
        mass[own] = _split_evenly(total, limits[own])
    return (mass / sizes)[group]


def _split_evenly(total: float, limits: np.ndarray) -> np.ndarray:
    """Splits the total as evenly as the limits allow, whose sum is at least the total."""
    parts = np.empty(len(limits))
    for number, one in enumerate(np.argsort(limits)):  # the lowest limit first: the others take the excess
        parts[one] = min(limits[one], total / (len(limits) - number))
        total -= parts[one]
    return parts
