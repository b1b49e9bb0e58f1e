"""Pseudo-groups of held-out images: their class, and the class that biased members predict (numpy only)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_biasensemble.evaluation.accuracy import wilson_interval

FEWEST_CONFLICTING = 10
"""With fewer pseudo-conflicting images, nothing is said: intervals would span half of the possible range."""
FEWEST_RIGHT = 0.5
"""Fraction of images that members must predict correctly: the shortcut of a dataset is right for most images."""
FEWEST_RIGHT_OF_CLASS = 0.5
"""The same for each class, as a fraction of what is required overall: even a rare class must not be given up."""
HESITANT = 0.02
"""From this median probability that members give the class of pseudo-conflicting images, they are merely hard."""


@dataclass(frozen=True)
class PseudoGroups:
    """What biased members predict for images that they were not trained on.

    Members follow the shortcut, so the class that they predict stands for the bias attribute: an image is
    pseudo-aligned where that is its class, and pseudo-conflicting where it is not.

    Attributes:
        labels: int64 (R,), classes of the images.
        predicted: int64 (R,), class with the highest mean probability over the members.
        label_probability: float32 (R,), mean probability that the members give the image's own class.
        num_classes: How many classes there are.
        members: Digest of the members' weights; empty if there are none.
    """

    labels: np.ndarray
    predicted: np.ndarray
    label_probability: np.ndarray
    num_classes: int
    members: str = ""

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray, labels: np.ndarray, members: str = "") -> "PseudoGroups":
        """From the mean probabilities (R, K) over the members."""
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
        """Of images of these classes for which no members predict anything."""
        return cls(labels, labels, np.ones(len(labels), dtype=np.float32), num_classes)

    @classmethod
    def joined(cls, parts: "Sequence[PseudoGroups]", members: str) -> "PseudoGroups":
        """Groups of the images of all parts, one after another."""
        labels, predicted, probability = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("labels", "predicted", "label_probability")
        )
        return cls(labels, predicted, probability, parts[0].num_classes, members)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_conflicting(self) -> np.ndarray:
        """bool (R,): whether members predict another class than the image's own."""
        return self.predicted != self.labels

    @property
    def digest(self) -> str:
        """Hash of labels and predictions: equal for models that were judged by the same assignment."""
        content = b"".join(array.astype(np.int64).tobytes() for array in (self.labels, self.predicted))
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def hesitation(self) -> float:
        """Median probability that members give the class of pseudo-conflicting images; 0 where there are none.

        A shortcut is as easy to see in images that contradict it as in all others, so members who follow it rule their
        class out. On images that are hard, or show two things, they do not.
        """
        conflicting = self.is_conflicting
        return float(np.median(self.label_probability[conflicting])) if conflicting.any() else 0.0

    def doubt(self) -> str | None:
        """Why these groups cannot tell models apart; `None` if they can."""
        if not self.members:
            return "no members of BiasEnsemble are named"
        conflicting, images = int(self.is_conflicting.sum()), len(self)
        if reason := self.no_shortcut():
            return reason
        if conflicting < FEWEST_CONFLICTING:
            return (
                f"only {conflicting} of {images:,} held-out images contradict the members, at least "
                f"{FEWEST_CONFLICTING} are needed; hold out more images (--validation_share), or judge by folds"
            )
        if self.hesitation >= HESITANT:
            return (
                f"the members hesitate on the {conflicting} held-out images that contradict them: they give the true "
                f"class a median probability of {100 * self.hesitation:.0f}%, with a shortcut it is below "
                f"{100 * HESITANT:.0f}%; the images may be hard rather than bias-conflicting, or the members were "
                "trained too briefly"
            )
        return None

    def no_shortcut(self) -> str | None:
        """Why the members follow no shortcut that predicts the class; `None` if they may."""
        if not len(self):
            return "there are no held-out images"
        right, needed = 1 - float(self.is_conflicting.mean()), max(FEWEST_RIGHT, 1.5 / self.num_classes)
        if right < needed:
            return (
                f"the members are right on only {100 * right:.0f}% of the held-out images, so they follow no shortcut "
                "that predicts the class; train them longer (--member_steps)"
            )
        return self._neglected(FEWEST_RIGHT_OF_CLASS * needed)

    def _neglected(self, fewest: float) -> str | None:
        """Names a class of which members get less than this fraction right, and not by chance."""
        counts = np.bincount(self.labels, minlength=self.num_classes)
        right = np.bincount(self.labels[~self.is_conflicting], minlength=self.num_classes)
        for label in np.flatnonzero(right < fewest * counts):
            share = right[label] / counts[label]
            if wilson_interval(share, int(counts[label]))[1] < fewest:
                return (
                    f"the members are right on only {100 * share:.0f}% of the {counts[label]:,} held-out images of "
                    f"class {label}, so they may follow class frequencies rather than a shortcut; balance them "
                    "(--balance_members true) or train them longer (--member_steps)"
                )
        return None
