"""Pseudo-groups of held-out images: their class, and the class that biased members take them for (numpy only)."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST_CONFLICTING = 10
"""Pseudo-conflicting images below which nothing is said: intervals would span half of what is possible."""
FEWEST_RIGHT = 0.5
"""Fraction of images that members must take for their class: the shortcut of a dataset is right for most images."""
HESITANT = 0.75
"""Median confidence of members on pseudo-conflicting images below which these may be merely hard."""


@dataclass(frozen=True)
class PseudoGroups:
    """What biased members, which never learned from these images, take them for.

    Members follow the shortcut, so the class that they predict stands for the bias attribute: an image is
    pseudo-aligned where that is its class, and pseudo-conflicting where it is not.

    Attributes:
        labels: int64 (R,), classes of the images.
        predicted: int64 (R,), class with the highest mean probability over the members.
        confidence: float32 (R,), that mean probability.
        num_classes: How many classes there are.
        members: Digest of the members' weights.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    num_classes: int
    members: str = ""

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray, labels: np.ndarray, members: str = "") -> "PseudoGroups":
        """From the mean probabilities (R, K) over the members."""
        predicted = probabilities.argmax(axis=1)
        confidence = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]
        return cls(
            np.asarray(labels, dtype=np.int64),
            predicted.astype(np.int64),
            confidence.astype(np.float32),
            probabilities.shape[1],
            members,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_conflicting(self) -> np.ndarray:
        """bool (R,): whether members take the image for another class than its own."""
        return self.predicted != self.labels

    @property
    def digest(self) -> str:
        """Hash of labels and predictions: equal for models that were judged by the same assignment."""
        content = b"".join(array.astype(np.int64).tobytes() for array in (self.labels, self.predicted))
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def confidence_on_conflicting(self) -> float:
        """Median confidence of the members on the pseudo-conflicting images; 0 where there are none.

        A shortcut is as easy to see in images that contradict it as in all others, so members are confident there too.
        On images that are hard, or show two things, they hesitate.
        """
        conflicting = self.is_conflicting
        return float(np.median(self.confidence[conflicting])) if conflicting.any() else 0.0

    def doubt(self) -> str | None:
        """Why these groups cannot tell models apart; `None` if nothing speaks against it."""
        conflicting, images = int(self.is_conflicting.sum()), len(self)
        if images == 0:
            return "there are no held-out images"
        right = 1 - conflicting / images
        if right < max(FEWEST_RIGHT, 1.5 / self.num_classes):
            return (
                f"the members take only {100 * right:.0f} % of the held-out images for their class, so they follow no "
                "shortcut that goes with the classes; train them longer (--member_steps)"
            )
        if conflicting < FEWEST_CONFLICTING:
            return (
                f"only {conflicting} of {images:,} held-out images contradict what the members predict, and at least "
                f"{FEWEST_CONFLICTING} are needed; hold out more images (--validation_share), or judge by folds"
            )
        return None

    @property
    def hesitates(self) -> bool:
        """Whether members hesitate on the pseudo-conflicting images, which may then be merely hard."""
        return self.confidence_on_conflicting < HESITANT

    def columns(self) -> dict[str, Any]:
        """As columns of a table."""
        return {"member_prediction": self.predicted, "member_confidence": self.confidence}
