"""Which of several candidates is best on images that contradict the shortcut, judged by folds without bias labels.

Each candidate predicts every training image with a model that never saw it. The images to which biased members, which
never saw them either, give the lowest probability of their class are the likeliest to contradict the shortcut, so
accuracy on these ranks candidates. It does not estimate the accuracy on bias-conflicting images: many of them are
merely hard or mislabelled.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.judging.pseudo_groups import FEWEST_CONFLICTING, PseudoGroups
from hf_biasensemble.selection import Selection

ALIKE = 0.72
"""Mean fraction of the members that predict the same class for images that contradict them, below which these are
merely hard: members that follow the same shortcut err alike."""
HARDEST = 0.01
FEWEST_HARDEST = 20
SIGNIFICANCE = 0.05
_DRAWS = 9999
_AT_ONCE = 1 << 22  # signs in memory


@dataclass(frozen=True)
class Judged:
    """A candidate, judged by folds.

    Attributes:
        name: Of the candidate.
        accuracy: On all images, in [0, 1].
        on_hardest: On the images that rank, in [0, 1].
        interval: 95% interval of that.
        costs: By how much its accuracy on all images is below the baseline's; negative if above.
        is_allowed: Whether it costs no more than is accepted.
    """

    name: str
    accuracy: float
    on_hardest: float
    interval: tuple[float, float]
    costs: float
    is_allowed: bool


@dataclass(frozen=True)
class Choice:
    """The candidate that is chosen, and why.

    Attributes:
        chosen: Name of the candidate.
        baseline: Name of the candidate that all are compared with.
        candidates: All of them, in order; none where nothing can be told.
        hardest: Number of images that rank.
        images: Number of all images.
        p_value: Probability that the best of the candidates exceeds the baseline as much by chance, if they are all
            equally good on these images; 1 where the baseline is chosen.
        doubt: Why nothing can be told; `None` if something can.
    """

    chosen: str
    baseline: str
    candidates: tuple[Judged, ...]
    hardest: int
    images: int
    p_value: float
    doubt: str | None = None

    @property
    def is_better(self) -> bool:
        """Whether the chosen candidate beats the baseline by more than chance."""
        return self.p_value < SIGNIFICANCE

    def sentence(self) -> str:
        """What was chosen and why, in one sentence."""
        if self.doubt:
            return f"Judged by folds without bias labels: cannot tell; {self.doubt}. {self.chosen} is trained."
        by_name = {candidate.name: candidate for candidate in self.candidates}
        best, plain = by_name[self.chosen], by_name[self.baseline]
        where = f"the {self.hardest} of {self.images:,} training images that the members find least like their class"
        if self.chosen == self.baseline:
            return (
                f"Judged by folds without bias labels: {self.chosen}, since no other of {len(self.candidates)} "
                f"candidates that costs little is better on {where} ({100 * best.on_hardest:.0f}%)."
            )
        chance = (
            f"p = {self.p_value:.2g}" if self.is_better else f"cannot tell this from chance, p = {self.p_value:.2g}"
        )
        cost = f"costs {100 * best.costs:.1f}" if best.costs >= 0 else f"gains {-100 * best.costs:.1f}"
        return (
            f"Judged by folds without bias labels: {self.chosen} of {len(self.candidates)} candidates, right on "
            f"{100 * best.on_hardest:.0f}% of {where}, {self.baseline} on {100 * plain.on_hardest:.0f}% ({chance}); "
            f"it {cost} points of accuracy on all images."
        )

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"is_better": self.is_better, "sentence": self.sentence()}


def hardest_images(label_probability: np.ndarray) -> np.ndarray:
    """The 1% of images (at least 20) with the lowest probability of their class, as places in the array.

    Args:
        label_probability (`np.ndarray` of shape (N,)): That members which never saw an image give its class.
    """
    count = min(len(label_probability), max(FEWEST_HARDEST, math.ceil(HARDEST * len(label_probability))))
    return np.sort(np.argsort(label_probability, kind="stable")[:count])


def doubt_of_members(selection: Selection, num_classes: int) -> str | None:
    """Why members that never saw these images cannot rank candidates by them; `None` if they can."""
    assert selection.predicted_labels is not None and selection.agreeing_members is not None
    groups = PseudoGroups(selection.labels, selection.predicted_labels, selection.mean_probability, num_classes)
    contradicts = groups.is_conflicting
    if reason := groups.no_shortcut():
        return reason
    if contradicts.sum() < FEWEST_CONFLICTING:
        return (
            f"only {contradicts.sum()} of {len(contradicts):,} training images contradict the members, at least "
            f"{FEWEST_CONFLICTING} are needed"
        )
    alike = float(selection.agreeing_members[contradicts].mean()) / selection.num_members
    if alike >= ALIKE:
        return None
    return (
        f"the members disagree about the {contradicts.sum():,} training images that contradict them: on average "
        f"{100 * alike:.0f}% predict the same class, with a shortcut at least {100 * ALIKE:.0f}%; these images may be "
        "hard rather than bias-conflicting"
    )


def choose(
    correct: Mapping[str, np.ndarray], label_probability: np.ndarray, baseline: str, accept_loss: float
) -> Choice:
    """The candidate with the best accuracy on the hardest images, of those that cost little on all of them.

    Of equally good ones, the first; the baseline before any other. So few images rank that several candidates often
    get all of them right; accuracy on all images would then decide for the one that changes least.

    Args:
        correct (`Mapping[str, np.ndarray]`): By candidate, in order of preference, whether each image (N,) is
            classified correctly by a model that never saw it. The baseline is among them.
        label_probability (`np.ndarray` of shape (N,)): That members which never saw an image give its class.
        baseline (`str`): Name of the ordinary classifier.
        accept_loss (`float`): By how much accuracy on all images may be below the baseline's, in [0, 1].
    """
    hardest = hardest_images(label_probability)
    right = {name: np.asarray(values, dtype=np.float64) for name, values in correct.items()}
    judged = {}
    for name, values in right.items():
        costs, score = float(right[baseline].mean() - values.mean()), float(values[hardest].mean())
        interval = wilson_interval(score, len(hardest))
        judged[name] = Judged(name, float(values.mean()), score, interval, costs, costs <= accept_loss + 1e-9)
    allowed = [name for name, candidate in judged.items() if candidate.is_allowed]
    best = max(allowed, key=lambda name: (judged[name].on_hardest, name == baseline))
    gained = np.stack([right[name][hardest] - right[baseline][hardest] for name in allowed], axis=1)
    p_value = 1.0 if best == baseline else chance_of_best(gained)
    return Choice(best, baseline, tuple(judged.values()), len(hardest), len(label_probability), p_value)


def chance_of_best(gained: np.ndarray) -> float:
    """One-sided p-value of the best of several candidates against the baseline, by a paired sign-flip test that takes
    the best of them anew for each draw of signs (Westfall and Young, 1993): so it counts that the best was picked.

    Args:
        gained (`np.ndarray` of shape (R, C)): What each candidate has more than the baseline on each image.
    """
    random, reached, most = np.random.default_rng(0), 0, gained.sum(axis=0).max() - 1e-9
    for start in range(0, _DRAWS, step := max(1, _AT_ONCE // len(gained))):
        signs = random.choice([-1.0, 1.0], size=(min(step, _DRAWS - start), len(gained)))
        reached += int(((signs @ gained).max(axis=1) >= most).sum())
    return (1 + reached) / (1 + _DRAWS)
