"""Estimates and comparisons in words."""

from collections.abc import Sequence

from hf_biasensemble.judging.estimates import FEWEST_OF_CLASS, Estimate
from hf_biasensemble.judging.predictions import HeldOutPredictions, gain

CANNOT_TELL = "cannot tell"
MOSTLY = 0.5
WIDEST = 0.5  # a wider interval is useless


def reason_not_to_tell(*models: HeldOutPredictions) -> str | None:
    """Returns why the bias-conflicting accuracy of any of these models cannot be estimated, or `None` if it can.

    All models must have predicted the same images, with the same pseudo-groups.
    """
    for model in models:
        if reason := model.groups.doubt():
            return reason
        conflicting = model.intervals()["conflicting"]
        if conflicting.high - conflicting.low > WIDEST:
            return (
                f"the accuracy on the {conflicting.images} images that contradict the members may be anything from "
                f"{100 * conflicting.low:.0f} to {100 * conflicting.high:.0f}%; hold out more images "
                "(--validation_share), or judge by folds"
            )
    return None


def caution(model: HeldOutPredictions) -> str | None:
    """Returns why the estimates should not be taken at face value, or `None`."""
    agrees = float((model.predictions == model.groups.predicted)[model.groups.is_conflicting].mean())
    if agrees <= MOSTLY:
        return None
    return (
        f"a model agrees with the members on {100 * agrees:.0f}% of the images that contradict them: it follows the "
        "shortcut too, or these images are mislabelled; look at them with hf-biasensemble audit"
    )


def verdict(models: Sequence[HeldOutPredictions], others: Sequence[HeldOutPredictions]) -> tuple[str, str]:
    """Returns `better`, `worse` or `cannot tell` on images that contradict the shortcut, and why it cannot tell.

    See [`gain`] for the arguments.
    """
    if reason := reason_not_to_tell(*models):
        return CANNOT_TELL, reason
    gained = gain(models, others).get("conflicting")
    if gained is None:
        return CANNOT_TELL, f"no class has {FEWEST_OF_CLASS} held-out images that contradict the members"
    if gained.low <= 0 <= gained.high:
        return CANNOT_TELL, "the difference may be chance"
    return ("better" if gained.value > 0 else "worse"), ""


def sentence(model: HeldOutPredictions, other: HeldOutPredictions | None = None, other_name: str = "ERM") -> str:
    """One sentence on a model's accuracy on images that contradict the shortcut, and its cost on the others."""
    compared = model.comparable(other)
    reason = reason_not_to_tell(model, *([compared] if compared else []))
    if reason:
        return f"Estimated without bias labels: {CANNOT_TELL}; {reason}."
    text = f"Estimated without bias labels: {model.intervals()['conflicting']} on images that contradict the shortcut"
    if compared is None:
        return f"{text}; {model.intervals()['aligned']} on the others."
    text = f"{text}, {other_name} {compared.intervals()['conflicting']}"
    answer, reason = verdict([model], [compared])
    if answer == CANNOT_TELL:
        return f"{text}; {CANNOT_TELL} which is better there: {reason}."
    return f"{text}; {cost(gain([model], [compared]).get('aligned'))}."


def cost(aligned: Estimate | None) -> str:
    """The change in accuracy on images that follow the shortcut, in words."""
    if aligned is None:
        return "too few of the others to compare"
    points = 100 * aligned.value
    if aligned.low <= 0 <= aligned.high or abs(points) < 0.5:
        return "no clear difference on the others"
    plural = "s" if abs(points) >= 1.5 else ""
    return f"{'costs' if points < 0 else 'gains'} {abs(points):.0f} point{plural} on the others"
