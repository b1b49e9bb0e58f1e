"""Models judged without bias labels: as a table with verdicts, and as plain values."""

from collections.abc import Mapping
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.judging.estimates import Estimate
from hf_biasensemble.judging.predictions import HeldOutPredictions, gain
from hf_biasensemble.judging.verdict import CANNOT_TELL, caution, cost, reason_not_to_tell, verdict
from hf_biasensemble.reporting.card.markdown import in_percent

_COLUMNS = ("conflicting", "aligned", "unbiased")


def judgement_table(
    models: Mapping[str, HeldOutPredictions], compare_with: str | None = None
) -> tuple[str, dict[str, Any]]:
    """What can be said of models on the same images, compared with the one named `compare_with`, if any.

    Returns the text, and the same as plain values: by model `estimates`, with both ends of the interval and the number
    of images, and where it is compared `difference` and `verdict`; or `cannot_tell`, the reason, and nothing else.
    """
    first = next(iter(models.values()))
    reason = reason_not_to_tell(*models.values())
    if reason:
        return f"{CANNOT_TELL}: {reason}", {"cannot_tell": reason}
    conflicting = int(first.groups.is_conflicting.sum())
    results: dict[str, Any] = {"images": len(first.groups), "pseudo_conflicting": conflicting, "models": {}}
    rows, said = {}, []
    for name, model in models.items():
        estimated = model.intervals()
        rows[name] = {column: _cell(estimated[column]) for column in _COLUMNS}
        results["models"][name] = {"estimates": {column: _values(estimated[column]) for column in _COLUMNS}}
        if compare_with and name != compare_with:
            pair = [model], [models[compare_with]]
            gained, (answer, why) = gain(*pair), verdict(*pair)
            results["models"][name] |= {
                "difference": {column: _values(found) for column, found in gained.items()},
                "verdict": answer,
            }
            said.append(_words(name, compare_with, answer, why, gained))
    cautions = list(dict.fromkeys(found for model in models.values() if (found := caution(model))))
    results |= {"caution": cautions} if cautions else {}
    title = (
        f"Estimated without bias labels on {len(first.groups):,} images, of which {conflicting:,} contradict the "
        "members; percent, with 95% confidence intervals"
    )
    table = pd.DataFrame.from_dict(rows, orient="index").to_string(col_space=24)
    return "\n".join([title, "", table, "", *said, *(f"caution: {text}" for text in cautions)]).rstrip(), results


def _words(name: str, other: str, answer: str, why: str, gained: Mapping[str, Estimate]) -> str:
    on, where = gained.get("conflicting"), "on images that contradict the shortcut"
    points = f"{100 * on.value:+.1f} points ({100 * on.low:+.1f} to {100 * on.high:+.1f})" if on else "no figure"
    if answer == CANNOT_TELL:
        return f"{name}: {CANNOT_TELL} whether it beats {other} {where}: {points}; {why}"
    return f"{name}: {answer} than {other} {where}, by {points}; {cost(gained.get('aligned'))}"


def _cell(estimate: Estimate) -> str:
    return in_percent(estimate.value, estimate.low, estimate.high)


def _values(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high, estimate.images]
