"""What methods on pseudo-groups share: groups of class and members' opinion, and draws that balance them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Sampler

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.arguments.options import one_of, option
from hf_biasensemble.data.batches.sampling import WeightedSampler
from hf_biasensemble.selection import PSEUDO_GROUPS, Selection
from hf_biasensemble.trainers.base import DebiasingTrainer

MOST_DRAWS = 20
"""No image is drawn more than this many times as often as by uniform draws: a group of one image is an oddity."""


@dataclass
class PseudoGroupArguments(DebiasingArguments):
    """Options of methods on pseudo-groups, beside those that all methods have."""

    _argument_group_name: ClassVar[str] = "method: pseudo-groups"

    pseudo_groups: Annotated[str, one_of(*PSEUDO_GROUPS)] = option(
        "predicted",
        "What makes a group together with the class: predicted (the class that the members predict) or selected "
        "(whether the image is in the bias-amplified set).",
    )


class PseudoGroupTrainer(DebiasingTrainer):
    """Knows the pseudo-group of each training sample. Draws all classes equally often, and all groups
    within a class, up to `MOST_DRAWS`.

    Args:
        selection (`Selection`): The members' votes on the training split.

    Attributes:
        groups: int64 (N,), the pseudo-group of each row of the training split, in [0, num_groups).
    """

    def __init__(self, *args: Any, selection: Selection, **kwargs: Any):
        super().__init__(*args, **kwargs)
        labels, rows = self.train_dataset.labels, self.train_dataset.rows.numpy()
        found, num_groups = selection.pseudo_groups(self.args.pseudo_groups, len(labels))
        self.groups = torch.from_numpy(found).to(self.args.device)
        self.group_samples(self.groups, num_groups)
        weights = balanced_weights(found[rows], labels.numpy()[rows])
        self.sampler = WeightedSampler(torch.from_numpy(weights), self.args.seed)

    def train_sampler(self) -> Sampler | None:
        return self.sampler


def balanced_weights(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability (N,) of each sample where the class is drawn first and then a group of it, each uniformly.

    A sample has at most `MOST_DRAWS / N`; what that takes from small groups or classes goes to the larger ones.

    Args:
        groups (`np.ndarray` of shape (N,)): Group of each sample, whose samples are all of one class.
        labels (`np.ndarray` of shape (N,)): Classes.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    class_of = np.empty(len(sizes), dtype=np.int64)
    class_of[group] = labels
    limits = sizes * MOST_DRAWS / len(labels)
    by_class = np.argsort(class_of, kind="stable")
    classes = np.split(by_class, np.flatnonzero(np.diff(class_of[by_class])) + 1)
    mass = np.empty(len(sizes))
    for own, total in zip(classes, _shared(1.0, np.array([limits[own].sum() for own in classes])), strict=True):
        mass[own] = _shared(total, limits[own])
    return (mass / sizes)[group]


def _shared(total: float, limits: np.ndarray) -> np.ndarray:
    """Equal parts of the total, up to limits whose sum is not below it."""
    parts = np.empty(len(limits))
    for number, one in enumerate(np.argsort(limits)):  # the smallest first: what it cannot take is for the rest
        parts[one] = min(limits[one], total / (len(limits) - number))
        total -= parts[one]
    return parts
