"""The verdicts on models judged without bias labels."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.judging.estimates import Estimate
from hf_biasensemble.judging.predictions import HeldOutPredictions, gain
from hf_biasensemble.judging.verdict import CANNOT_TELL, caution, cost, reason_not_to_tell, verdict
from hf_biasensemble.reporting.card.markdown import in_percent

_GROUPS = ("conflicting", "aligned", "unbiased")


def judgement_table(
    models: Mapping[str, HeldOutPredictions], compare_with: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Judges models on the same images, and compares them with the one named `compare_with`.

    Returns the text, and plain values: for each model `estimates` as [value, low, high, images] and, if compared,
    `difference` and `verdict`; or only `cannot_tell`, the reason.
    """
    reason = reason_not_to_tell(*models.values())
    if reason:
        return f"{CANNOT_TELL}: {reason}", {"cannot_tell": reason}
    groups = next(iter(models.values())).groups
    conflicting = int(groups.is_conflicting.sum())
    judged: dict[str, dict[str, Any]] = {}
    rows, sentences = {}, []
    for name, model in models.items():
        estimated = model.intervals()
        rows[name] = {
            group: in_percent(estimated[group].value, estimated[group].low, estimated[group].high) for group in _GROUPS
        }
        judged[name] = {"estimates": {group: list(astuple(estimated[group])) for group in _GROUPS}}
        if compare_with and name != compare_with:
            pair = [model], [models[compare_with]]
            gained, (answer, why) = gain(*pair), verdict(*pair)
            difference = {group: list(astuple(estimate)) for group, estimate in gained.items()}
            judged[name] |= {"difference": difference, "verdict": answer}
            sentences.append(_sentence(name, compare_with, answer, why, gained))
    results: dict[str, Any] = {"images": len(groups), "pseudo_conflicting": conflicting, "models": judged}
    if cautions := list(dict.fromkeys(found for model in models.values() if (found := caution(model)))):
        results["caution"] = cautions
    title = (
        f"Estimated without bias labels on {len(groups):,} images, of which {conflicting:,} contradict the members; "
        "percent, with 95% confidence intervals"
    )
    table = pd.DataFrame.from_dict(rows, orient="index").to_string(col_space=24)
    return "\n".join([title, "", table, "", *sentences, *(f"caution: {text}" for text in cautions)]).rstrip(), results


def _sentence(name: str, other: str, answer: str, why: str, gained: Mapping[str, Estimate]) -> str:
    on, where = gained.get("conflicting"), "on images that contradict the shortcut"
    points = f"{100 * on.value:+.1f} points ({100 * on.low:+.1f} to {100 * on.high:+.1f})" if on else "no figure"
    if answer == CANNOT_TELL:
        return f"{name}: {CANNOT_TELL} whether it beats {other} {where}: {points}; {why}"
    return f"{name}: {answer} than {other} {where}, by {points}; {cost(gained.get('aligned'))}"
