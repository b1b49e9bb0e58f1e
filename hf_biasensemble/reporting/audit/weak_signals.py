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


def weak_signals(selection: Selection, class_names: list[str]) -> list[str]:
    """What speaks against trusting the list, in a sentence or two each; empty if nothing does.

    - Members all right: fewer than `FEWEST_FLAGGED` of the images are flagged.
    - Members unsure: less than `FEWEST_KEPT` of all images, or `FEWEST_KEPT_OF_CLASS` of a class, is kept.
    - Members all wrong: their joint prediction is right hardly more often than always naming the most frequent class
      (the share of the way from there to all right is below `LEAST_BETTER_THAN_GUESSING`).
    - Disagreement: on more than `MOST_DISAGREEMENT` of the images, the members do not all predict the same class.

    Args:
        selection (`Selection`): The votes. Without predictions (older tables) the last two cannot be told.
        class_names (`list[str]`): Names of the classes.
    """
    kept, labels = selection.is_selected, selection.labels
    total, flagged, kept_share = len(kept), int((~kept).sum()), kept.mean()
    found = []
    if flagged < FEWEST_FLAGGED * total:
        found.append(
            f"Hardly any image is flagged: {flagged:,} of {total:,}. Either nothing in the data contradicts what "
            "the members learnt, or they have memorised the exceptions. Fewer --member_steps or a higher "
            "--member_threshold would tell."
        )
    if kept_share < FEWEST_KEPT:
        found.append(
            f"The members are confident about only {_percent(kept_share)} of the images. Most of the rest is hard for "
            "them rather than contradicting anything. More --member_steps, a higher --learning_rate or a lower "
            "--member_threshold may help; if not, there may be no easy shortcut in the data."
        )
    else:
        count = np.bincount(labels, minlength=len(class_names))
        share = np.bincount(labels, kept, minlength=len(class_names)) / np.maximum(count, 1)
        weak = [class_names[number] for number in np.flatnonzero((share < FEWEST_KEPT_OF_CLASS) & (count > 0))]
        if weak:
            more = f" and {len(weak) - _MOST_CLASSES_NAMED:,} more" if len(weak) > _MOST_CLASSES_NAMED else ""
            found.append(
                f"The members are confident about less than {_percent(FEWEST_KEPT_OF_CLASS)} of the images of "
                f"{', '.join(weak[:_MOST_CLASSES_NAMED])}{more}. There, being flagged says little."
            )
    if selection.predicted_labels is not None and selection.agreeing_members is not None:
        right, guessing = np.mean(selection.predicted_labels == labels), np.bincount(labels).max() / total
        if right - guessing < LEAST_BETTER_THAN_GUESSING * (1 - guessing):
            found.append(
                f"The members are wrong too often: together they are right on {_percent(right)} of the images, and "
                f"always naming the most frequent class would be on {_percent(guessing)}. They have learnt too little "
                "for their votes to mean anything; raise --member_steps or --learning_rate or try another --backbone."
            )
        disagreement = np.mean(selection.agreeing_members < selection.num_members)
        if disagreement > MOST_DISAGREEMENT:
            found.append(
                f"The members disagree: on {_percent(disagreement)} of the images they do not all predict the same "
                "class. What they learnt depends on their start more than on one easy rule in the data."
            )
    return found


def _percent(share: float | np.floating) -> str:
    return f"{100 * share:.0f} %"
