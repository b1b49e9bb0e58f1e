"""Pseudo-groups of held-out images: their class and the class that biased members predict (numpy only)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_biasensemble.evaluation.accuracy import wilson_interval

FEWEST_CONFLICTING = 10
"""With fewer pseudo-conflicting images, there are no estimates: their intervals would span half of the range."""
FEWEST_RIGHT = 0.5
"""Minimum accuracy of the members: a dataset's shortcut predicts the class of most images."""
FEWEST_RIGHT_OF_CLASS = 0.5
"""Minimum for each class, as a fraction of the overall minimum: members must not give up a rare class."""
HESITANT = 0.02
"""Limit to the members' median probability for the class of pseudo-conflicting images: with more, these are hard."""


@dataclass(frozen=True)
class PseudoGroups:
    """Predictions of biased members for images that they were not trained on.

    Members follow the shortcut, so the class that they predict is a proxy for the bias attribute: an image is
    pseudo-aligned if they predict its class, and pseudo-conflicting if they don't.
    """

    labels: np.ndarray  # int64 (R,)
    predicted: np.ndarray  # int64 (R,): class with the highest mean probability over the members
    label_probability: np.ndarray  # float32 (R,): the members' mean probability of the true class
    num_classes: int
    members: str = ""  # digest of the members' weights; empty without members

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray, labels: np.ndarray, members: str = "") -> "PseudoGroups":
        """Takes probabilities (R, K), averaged over the members."""
        labels = np.asarray(labels, dtype=np.int64)
        return cls(
            labels,
            probabilities.argmax(axis=1).astype(np.int64),
            np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float32),
            probabilities.shape[1],
            members,
        )

    @classmethod
    def unjudged(cls, labels: np.ndarray, num_classes: int) -> "PseudoGroups":
        """Groups without members: all images count as aligned."""
        return cls(labels, labels, np.ones(len(labels), dtype=np.float32), num_classes)

    @classmethod
    def joined(cls, parts: "Sequence[PseudoGroups]", members: str) -> "PseudoGroups":
        """Concatenates the groups of several parts."""
        labels, predicted, probability = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("labels", "predicted", "label_probability")
        )
        return cls(labels, predicted, probability, parts[0].num_classes, members)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_conflicting(self) -> np.ndarray:
        """bool (R,): whether members predict a class other than the image's own."""
        return self.predicted != self.labels

    @property
    def digest(self) -> str:
        """Hash of labels and predictions, equal for models judged by the same groups."""
        content = b"".join(array.astype(np.int64).tobytes() for array in (self.labels, self.predicted))
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def hesitation(self) -> float:
        """The members' median probability for the class of pseudo-conflicting images; 0 without such images.

        Members that follow a shortcut see it just as clearly in images that contradict it, so they rule the true class
        out. On images that are hard or show two objects, they don't.
        """
        conflicting = self.is_conflicting
        return float(np.median(self.label_probability[conflicting])) if conflicting.any() else 0.0

    def doubt(self) -> str | None:
        """Returns why these groups cannot tell models apart, or `None` if they can."""
        if not self.members:
            return "no BiasEnsemble members are given"
        if reason := self.no_shortcut():
            return reason
        conflicting = int(self.is_conflicting.sum())
        if conflicting < FEWEST_CONFLICTING:
            return (
                f"only {conflicting} of {len(self):,} held-out images contradict the members, at least "
                f"{FEWEST_CONFLICTING} are needed; hold out more images (--validation_share), or judge by folds"
            )
        if self.hesitation >= HESITANT:
            return (
                f"the members hesitate about the {conflicting} held-out images that contradict them: they give the "
                f"true class a median probability of {100 * self.hesitation:.0f}%, with a shortcut it is below "
                f"{100 * HESITANT:.0f}%; the images may be hard rather than bias-conflicting, or the members were "
                "trained too briefly"
            )
        return None

    def no_shortcut(self) -> str | None:
        """Returns why the members cannot have followed a shortcut that predicts the class, or `None`."""
        if not len(self):
            return "there are no held-out images"
        right, needed = 1 - float(self.is_conflicting.mean()), max(FEWEST_RIGHT, 1.5 / self.num_classes)
        if right < needed:
            return (
                f"the members are right on only {100 * right:.0f}% of the held-out images, so they follow no shortcut "
                "that predicts the class; train them longer (--member_steps)"
            )
        needed *= FEWEST_RIGHT_OF_CLASS
        counts = np.bincount(self.labels, minlength=self.num_classes)
        correct = np.bincount(self.labels[~self.is_conflicting], minlength=self.num_classes)
        for label in np.flatnonzero(correct < needed * counts):
            right = correct[label] / counts[label]
            if wilson_interval(right, int(counts[label]))[1] < needed:  # not by chance
                return (
                    f"the members are right on only {100 * right:.0f}% of the {counts[label]:,} held-out images of "
                    f"class {label}, so they may follow class frequencies rather than a shortcut; balance them "
                    "(--balance_members true) or train them longer (--member_steps)"
                )
        return None
