"""What the estimates come to, in words."""

from collections.abc import Mapping

from hf_biasensemble.judging.estimates import Estimate
from hf_biasensemble.judging.predictions import HeldOutPredictions

CANNOT_TELL = "cannot tell"
MOSTLY = 0.5
WIDEST = 0.5
"""An interval wider than this says nothing."""


def says_nothing(intervals: Mapping[str, Estimate]) -> str | None:
    """Why estimates with these intervals are of no use; `None` if they are."""
    conflicting = intervals["conflicting"]
    if conflicting.high - conflicting.low <= WIDEST:
        return None
    return (
        f"the {conflicting.images} pseudo-conflicting images leave accuracy on them open between "
        f"{100 * conflicting.low:.0f} and {100 * conflicting.high:.0f} %; hold out more images (--validation_share), "
        "or judge by folds"
    )


def reason_not_to_tell(model: HeldOutPredictions) -> str | None:
    """Why nothing is said of the model's accuracy on bias-conflicting images; `None` if something is."""
    return model.doubt() or says_nothing(model.intervals())


def caution(model: HeldOutPredictions) -> str | None:
    """What speaks against taking the estimates by their word; `None` if nothing does."""
    assert model.groups is not None
    conflicting = model.groups.is_conflicting
    agrees = float((model.predictions == model.groups.predicted)[conflicting].mean())
    if agrees > MOSTLY:
        return (
            f"a model takes {100 * agrees:.0f} % of the images that contradict what the members predict for the same "
            "as the members: it follows the shortcut as well, or the labels of these images are wrong; look at them "
            "with hf-biasensemble audit"
        )
    return model.groups.caution()


def verdict(gain: Mapping[str, Estimate]) -> str:
    """`better` or `worse` than another model on images that contradict the shortcut, or `cannot tell`.

    Args:
        gain (`Mapping[str, Estimate]`): What [`HeldOutPredictions.gain_over`] gave; empty where there are doubts.
    """
    if not gain:
        return CANNOT_TELL
    if gain["conflicting"].low > 0:
        return "better"
    return "worse" if gain["conflicting"].high < 0 else CANNOT_TELL


def sentence(model: HeldOutPredictions, other: HeldOutPredictions | None = None, other_name: str = "ERM") -> str:
    """One sentence on a model: its estimated accuracy on images that contradict the shortcut, that of another model,
    and what it costs on the others.

    Args:
        model (`HeldOutPredictions`): With its groups.
        other (`HeldOutPredictions`, *optional*): Of another model; left out if it is about other images.
        other_name (`str`, *optional*, defaults to `"ERM"`): Name of that.
    """
    reason = reason_not_to_tell(model)
    if reason:
        return f"Estimated without bias labels: {CANNOT_TELL}; {reason}."
    text = f"Estimated without bias labels: {model.intervals()['conflicting']} on images that contradict the shortcut"
    if other is None or not model.is_about(other):
        return f"{text}; {model.intervals()['aligned']} on the others."
    theirs, gain = other.judged_by(model.groups).intervals(), model.gain_over(other)
    if verdict(gain) == CANNOT_TELL:
        return f"{text}, {other_name} {theirs['conflicting']}; too close to say which is better there."
    return f"{text}, {other_name} {theirs['conflicting']}; {cost(gain['aligned'])}."


def cost(aligned: Estimate) -> str:
    """What a model loses, or gains, on images that follow the shortcut."""
    points = 100 * aligned.value
    if aligned.low <= 0 <= aligned.high or abs(points) < 0.5:
        return "no clear difference on the others"
    plural = "s" if abs(points) >= 1.5 else ""
    return f"{'costs' if points < 0 else 'gains'} {abs(points):.0f} point{plural} on the others"
