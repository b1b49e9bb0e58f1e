"""Signs, measured without bias labels, that the votes of the biased members should not be trusted."""

import numpy as np

from hf_biasensemble.selection import Selection

# Rules of thumb, as fractions of the images.
_FEWEST_FLAGGED = 0.001
_FEWEST_KEPT = 0.5
_FEWEST_KEPT_OF_CLASS = 0.2
_LEAST_BETTER_THAN_GUESSING = 0.3  # of the way from predicting the most frequent class to being always right
_MOST_DISAGREEMENT = 0.25
_MOST_CLASSES_NAMED = 10


def contradicting(selection: Selection) -> np.ndarray:
    """bool (N,): flagged images that the members predict as another class; about the others they hesitate."""
    return ~selection.is_selected & (selection.predicted_labels != selection.labels)


def weak_signals(selection: Selection, class_names: list[str], image: str = "image") -> list[str]:
    """Reasons not to trust the list, as text for the page."""
    assert selection.agreeing_members is not None
    kept, labels = selection.is_selected, selection.labels
    by_quota = selection.provenance.get("member_keep") is not None  # flags the same fraction of any dataset
    suspicious = int(contradicting(selection).sum() if by_quota else (~kept).sum())
    found = []
    if suspicious < _FEWEST_FLAGGED * len(kept):
        what = "contradicts the members" if by_quota else "is flagged"
        found.append(
            f"Hardly any {image} {what}: {suspicious:,} of {len(kept):,}. Either nothing contradicts what the members "
            "learned, or they memorised the exceptions. Try fewer --member_steps or a higher --member_threshold."
        )
    if kept.mean() < _FEWEST_KEPT:
        found.append(
            f"The members are confident about only {kept.mean():.0%} of the {image}s. Most of the others are simply "
            "hard and contradict nothing. Try more --member_steps, a higher --learning_rate or a lower "
            "--member_threshold; if that does not help, there may be no easy shortcut."
        )
    else:
        count = np.bincount(labels, minlength=len(class_names))
        fraction = np.bincount(labels, kept, minlength=len(class_names)) / np.maximum(count, 1)
        weak = [class_names[number] for number in np.flatnonzero((fraction < _FEWEST_KEPT_OF_CLASS) & (count > 0))]
        if weak:
            more = f" and {len(weak) - _MOST_CLASSES_NAMED:,} more" if len(weak) > _MOST_CLASSES_NAMED else ""
            found.append(
                f"The members are confident about less than {_FEWEST_KEPT_OF_CLASS:.0%} of the {image}s of "
                f"{', '.join(weak[:_MOST_CLASSES_NAMED])}{more}. For these classes, a flag means little."
            )
    right, guessing = np.mean(selection.predicted_labels == labels), np.bincount(labels).max() / len(labels)
    if right - guessing < _LEAST_BETTER_THAN_GUESSING * (1 - guessing):
        found.append(
            f"The members are wrong too often: together they are right on {right:.0%} of the {image}s; always "
            f"predicting the most frequent class would be right on {guessing:.0%}. They have learned too little for "
            "their votes to mean anything. Raise --member_steps or --learning_rate, or try another --backbone."
        )
    disagreement = np.mean(selection.agreeing_members < selection.num_members)
    if disagreement > _MOST_DISAGREEMENT:
        found.append(
            f"The members disagree: on {disagreement:.0%} of the {image}s they do not all predict the same "
            "class. What they learned depends more on their initialisation than on one easy rule."
        )
    return found
