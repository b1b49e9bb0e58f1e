"""Ranks candidates without bias labels, by accuracy on the training images whose class the members find least likely.

This does not estimate the accuracy on bias-conflicting images: many of these are merely hard or mislabelled.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.judging.estimates import SIGNIFICANCE
from hf_biasensemble.judging.pseudo_groups import FEWEST_CONFLICTING, PseudoGroups
from hf_biasensemble.selection import Selection

ALIKE = 0.72
"""Minimum agreement of the members about the images that contradict them, as the mean fraction that predicts the same
class. Members that follow the same shortcut make the same errors; below, the images are merely hard."""
HARDEST = 0.01
FEWEST_HARDEST = 20
_DRAWS = 9999
_AT_ONCE = 1 << 22  # signs in memory


@dataclass(frozen=True)
class Judged:
    """A candidate, judged by folds. Accuracies are in [0, 1]."""

    name: str
    accuracy: float
    on_hardest: float
    interval: tuple[float, float]  # 95%, of on_hardest
    costs: float  # by how much accuracy is below the baseline's; negative if above
    is_allowed: bool  # whether that is accepted


@dataclass(frozen=True)
class Choice:
    """The chosen candidate and the reasons for it."""

    chosen: str
    baseline: str
    candidates: tuple[Judged, ...]  # in order; empty if there is a doubt
    hardest: int  # number of images that rank candidates
    images: int
    p_value: float  # of the chosen candidate against the baseline; 1 if that is the baseline itself
    doubt: str | None = None  # why candidates could not be ranked

    @property
    def is_better(self) -> bool:
        """Whether the chosen candidate is significantly better than the baseline."""
        return self.p_value < SIGNIFICANCE

    def sentence(self) -> str:
        """The choice and its reasons in one sentence."""
        if self.doubt:
            return f"Judged by folds without bias labels: cannot tell; {self.doubt}. {self.chosen} is trained."
        by_name = {candidate.name: candidate for candidate in self.candidates}
        best, plain = by_name[self.chosen], by_name[self.baseline]
        where = f"the {self.hardest} of {self.images:,} training images whose class the members find least likely"
        if self.chosen == self.baseline:
            return (
                f"Judged by folds without bias labels: {self.chosen}, since none of {len(self.candidates)} candidates "
                f"with acceptable accuracy on all images beats it on {where} ({100 * best.on_hardest:.0f}% correct)."
            )
        chance = "" if self.is_better else "cannot tell this from chance, "
        cost = f"costs {100 * best.costs:.1f}" if best.costs >= 0 else f"gains {-100 * best.costs:.1f}"
        return (
            f"Judged by folds without bias labels: {self.chosen} out of {len(self.candidates)} candidates, correct on "
            f"{100 * best.on_hardest:.0f}% of {where}, {self.baseline} on {100 * plain.on_hardest:.0f}% "
            f"({chance}p = {self.p_value:.2g}); it {cost} points of accuracy on all images."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the results."""
        return asdict(self) | {"is_better": self.is_better, "sentence": self.sentence()}


def hardest_images(label_probability: np.ndarray) -> np.ndarray:
    """Positions of the 1% of images (at least 20) with the lowest probability (N,) of their class."""
    count = max(FEWEST_HARDEST, math.ceil(HARDEST * len(label_probability)))
    return np.sort(np.argsort(label_probability, kind="stable")[:count])


def doubt_of_members(selection: Selection, num_classes: int) -> str | None:
    """Returns why the members cannot rank candidates, or `None` if they can."""
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
    """Chooses the candidate with the best accuracy on the hardest images, among those that cost little on all images.

    Both `correct` (N,), by candidate in order of preference, and `label_probability` (N,), by the members, come from
    models that never saw the image. Ties go to the baseline, then to the first: several candidates often get all of
    the few hardest images right, and accuracy on all images would favour the one that changes least.
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
    """One-sided p-value of the best of C candidates against the baseline, from differences (R, C) on R images.

    A paired sign-flip test that picks the best candidate anew for each draw of signs (Westfall and Young, 1993), which
    corrects for the choice among several.
    """
    random, reached, most = np.random.default_rng(0), 0, gained.sum(axis=0).max() - 1e-9
    for start in range(0, _DRAWS, step := max(1, _AT_ONCE // len(gained))):
        signs = random.choice([-1.0, 1.0], size=(min(step, _DRAWS - start), len(gained)))
        reached += int(((signs @ gained).max(axis=1) >= most).sum())
    return (1 + reached) / (1 + _DRAWS)
