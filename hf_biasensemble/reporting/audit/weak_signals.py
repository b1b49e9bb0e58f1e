"""When the votes of the biased members should not be trusted: conditions that can be measured without bias labels."""

import numpy as np

from hf_biasensemble.selection import Selection

# Rules of thumb, not laws: each names a state in which the order of the list says little.
FEWEST_FLAGGED = 0.001
FEWEST_KEPT = 0.5
FEWEST_KEPT_OF_CLASS = 0.2
LEAST_BETTER_THAN_GUESSING = 0.3
MOST_DISAGREEMENT = 0.25
_MOST_CLASSES_NAMED = 10


def contradicting(selection: Selection) -> np.ndarray:
    """bool (N,): flagged images for which the members predict another class. They hesitate about the other flagged
    images."""
    return ~selection.is_selected & (selection.predicted_labels != selection.labels)


def weak_signals(selection: Selection, class_names: list[str], image: str = "image") -> list[str]:
    """Reasons not to trust the list, in a sentence or two each; empty if there are none.

    - Members all right: fewer than `FEWEST_FLAGGED` of the images are flagged (with `member_keep`, which flags the
      same fraction whatever the members say: contradict them).
    - Members unsure: less than `FEWEST_KEPT` of all images, or `FEWEST_KEPT_OF_CLASS` of a class, is kept.
    - Members all wrong: their joint prediction is hardly better than always naming the most frequent class (the
      fraction of the way from there to all right is below `LEAST_BETTER_THAN_GUESSING`).
    - Disagreement: on more than `MOST_DISAGREEMENT` of the images, the members do not all predict the same class.
    """
    assert selection.agreeing_members is not None
    kept, labels = selection.is_selected, selection.labels
    by_quota = selection.provenance.get("member_keep") is not None
    suspicious = int(contradicting(selection).sum() if by_quota else (~kept).sum())
    found = []
    if suspicious < FEWEST_FLAGGED * len(kept):
        what = "contradicts the members" if by_quota else "is flagged"
        found.append(
            f"Hardly any {image} {what}: {suspicious:,} of {len(kept):,}. Either nothing contradicts what the members "
            "learned, or they have memorized the exceptions. Try fewer --member_steps or a higher --member_threshold."
        )
    if kept.mean() < FEWEST_KEPT:
        found.append(
            f"The members are confident about only {_percent(kept.mean())} of the {image}s. Most of the rest is hard "
            "rather than contradicting anything. Try more --member_steps, a higher --learning_rate or a lower "
            "--member_threshold; if that does not help, there may be no easy shortcut."
        )
    else:
        count = np.bincount(labels, minlength=len(class_names))
        fraction = np.bincount(labels, kept, minlength=len(class_names)) / np.maximum(count, 1)
        weak = [class_names[number] for number in np.flatnonzero((fraction < FEWEST_KEPT_OF_CLASS) & (count > 0))]
        if weak:
            more = f" and {len(weak) - _MOST_CLASSES_NAMED:,} more" if len(weak) > _MOST_CLASSES_NAMED else ""
            found.append(
                f"The members are confident about less than {_percent(FEWEST_KEPT_OF_CLASS)} of the {image}s of "
                f"{', '.join(weak[:_MOST_CLASSES_NAMED])}{more}. There, being flagged says little."
            )
    right, guessing = np.mean(selection.predicted_labels == labels), np.bincount(labels).max() / len(labels)
    if right - guessing < LEAST_BETTER_THAN_GUESSING * (1 - guessing):
        found.append(
            f"The members are wrong too often: together they are right on {_percent(right)} of the {image}s; always "
            f"predicting the most frequent class would be right on {_percent(guessing)}. They have learned too little "
            "for their votes to mean anything. Raise --member_steps or --learning_rate, or try another --backbone."
        )
    disagreement = np.mean(selection.agreeing_members < selection.num_members)
    if disagreement > MOST_DISAGREEMENT:
        found.append(
            f"The members disagree: on {_percent(disagreement)} of the {image}s they do not all predict the same "
            "class. What they learned depends more on their initialization than on one easy rule."
        )
    return found


def _percent(fraction: float | np.floating) -> str:
    return f"{100 * fraction:.0f}%"
