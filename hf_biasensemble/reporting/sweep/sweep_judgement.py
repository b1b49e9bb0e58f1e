"""What a sweep estimates of its methods without bias labels, next to what the test split measures where it can."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from hf_biasensemble.judging.predictions import HeldOutPredictions, gain
from hf_biasensemble.judging.verdict import CANNOT_TELL, reason_not_to_tell, verdict
from hf_biasensemble.reporting.card.markdown import markdown_table
from hf_biasensemble.reporting.sweep.cell import Cell

_ABOUT = (
    "Accuracy of the published models on held-out images, by pseudo-groups of class and the members' prediction; the "
    "same members judge all methods with the same data and seed. The pick has the highest estimated unbiased "
    "accuracy, as the mean over the seeds; it uses no bias label and no test image. Differences are averaged over the "
    "seeds for each image, and tested over the images."
)
PICK = "**pick**"
_GROUPS = ("aligned", "conflicting", "unbiased")


def judged_section(groups: Mapping[tuple[str, str], list[Cell]], baselines: Mapping[str, str | None]) -> list[str]:
    """Estimated beside measured accuracy of each method, the pick and, where it can be measured, its regret: by how
    many points the best method exceeds it on the test split. `groups` are the runs by data and method, `baselines`
    what each method is compared with."""
    if not any(cell.held_out and cell.held_out.groups.members for group in groups.values() for cell in group):
        return []
    header = ["data", "method", *(f"estimated {name}" for name in _GROUPS), "measured unbiased"]
    rows, notes = [[*header, "against its baseline", ""]], []
    for data in dict.fromkeys(name for name, _ in groups):
        of_data = {method: cells for (name, method), cells in groups.items() if name == data}
        pick, reason = picked(of_data), _reason(of_data)
        for method, cells in of_data.items():
            estimated = [mean_and_spread(_estimates(cells, name)) for name in _GROUPS]
            shown = [CANNOT_TELL] * len(_GROUPS) if reason or not all(estimated) else estimated
            against = _against(cells, of_data.get(baselines.get(method) or "", []))
            row = [data, method, *shown, mean_and_spread(_measured(cells)), against]
            rows.append([*row, PICK if method == pick else ""])
        notes += [f"{data}: {CANNOT_TELL} how good they are there; {reason}."] if reason else []
        notes += _rivals(data, of_data, pick) + _regret(data, of_data, pick)
    return ["## Judged without bias labels\n\n" + "\n\n".join([_ABOUT, markdown_table(rows), *notes])]


def _estimates(cells: Sequence[Cell], group: str) -> list[float]:
    """Estimated accuracy of the runs in percent, of those with groups that can rank models."""
    found = [cell.held_out.estimates() for cell in cells if cell.held_out]
    return [100 * estimates[f"estimated_{group}_accuracy"] for estimates in found if estimates]


def picked(of_data: Mapping[str, Sequence[Cell]]) -> str | None:
    """The method with the highest estimate; `None` where not all have one, or there is one method only."""
    means = {method: _estimates(cells, "unbiased") for method, cells in of_data.items()}
    if len(means) < 2 or any(len(means[method]) < len(cells) for method, cells in of_data.items()):
        return None
    return max(means, key=lambda method: mean(means[method]))


def _rivals(data: str, of_data: Mapping[str, Sequence[Cell]], pick: str | None) -> list[str]:
    """Methods that the estimates cannot tell from the pick: the paired difference may be chance."""
    if pick is None:
        return []
    pairs = {method: _paired(of_data[pick], cells) for method, cells in of_data.items() if method != pick}
    gained = {method: gain(*pair).get("unbiased") for method, pair in pairs.items() if pair[0]}
    rivals = [method for method, found in gained.items() if found is None or found.low <= 0]
    return [f"{data}: the estimates cannot tell the pick {pick} from {', '.join(rivals)}."] if rivals else []


def _paired(
    cells: Sequence[Cell], others: Sequence[Cell]
) -> tuple[list[HeldOutPredictions], list[HeldOutPredictions]]:
    """Tables of two methods, seed by seed, where both have one of the same images."""
    by_seed = {cell.seed: cell.held_out for cell in others}
    found = [(cell.held_out, by_seed.get(cell.seed)) for cell in cells]
    pairs = [(one, other) for one, other in found if one and other and one.is_about(other)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _reason(of_data: Mapping[str, Sequence[Cell]]) -> str | None:
    """Why the estimates say nothing of how good the methods are, whatever their order."""
    by_seed: dict[int, list[HeldOutPredictions]] = {}
    for cells in of_data.values():
        for cell in cells:
            if cell.held_out and cell.held_out.groups.members:
                by_seed.setdefault(cell.seed, []).append(cell.held_out)
    reasons = (reason_not_to_tell(*models) for models in by_seed.values())
    return next((reason for reason in reasons if reason), None)


def _measured(cells: Sequence[Cell]) -> list[float]:
    """Unbiased accuracy on the test split, in percent."""
    return [
        cell.published["unbiased_accuracy"]
        for cell in cells
        if cell.is_of_test and "unbiased_accuracy" in cell.published
    ]


def _against(cells: Sequence[Cell], others: Sequence[Cell]) -> str:
    """Whether estimates say that the method beats its baseline on bias-conflicting images."""
    ours, theirs = _paired(cells, others)
    return verdict(ours, theirs)[0] if ours else ""


def _regret(data: str, of_data: Mapping[str, Sequence[Cell]], pick: str | None) -> list[str]:
    """What the pick costs, where that can be measured."""
    measured = {method: _measured(cells) for method, cells in of_data.items()}
    if pick is None or any(len(measured[method]) < len(cells) for method, cells in of_data.items()):
        return []
    best = max(measured, key=lambda method: mean(measured[method]))
    regret = mean(measured[best]) - mean(measured[pick])
    return [f"{data}: the pick {pick} is {regret:.1f} points below the best on the test split ({best})."]


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± sample standard deviation, as far as there are enough values; with `sign` "+", the mean has a sign."""
    if not values:
        return ""
    return f"{mean(values):{sign}.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
