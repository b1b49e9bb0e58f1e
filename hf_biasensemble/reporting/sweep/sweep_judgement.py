"""Accuracy estimated without bias labels for the methods of a sweep, next to the measured one."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from hf_biasensemble.judging.predictions import HeldOutPredictions, gain
from hf_biasensemble.judging.verdict import CANNOT_TELL, reason_not_to_tell, verdict
from hf_biasensemble.reporting.card.markdown import markdown_table
from hf_biasensemble.reporting.sweep.cell import Cell

_ABOUT = (
    "Accuracy of the published models on held-out images, by pseudo-groups of class and the members' prediction; the "
    "same members judge all methods with the same data and seed. The pick has the highest estimated unbiased "
    "accuracy, averaged over seeds; it uses no bias label and no test image. Differences are averaged over seeds for "
    "each image and tested across images."
)
_GROUPS = ("aligned", "conflicting", "unbiased")
_Runs = Mapping[str, Sequence[Cell]]  # by method


def judged_section(cells: Sequence[Cell], baselines: Mapping[str, str | None]) -> list[str]:
    """The section of `table.md` on the methods as judged by members; none if no run was judged."""
    if not any(cell.held_out and cell.held_out.groups.members for cell in cells):
        return []
    header = ["data", "method", *(f"estimated {name}" for name in _GROUPS), "measured unbiased"]
    rows, notes = [[*header, "against its baseline", ""]], []
    for data in dict.fromkeys(cell.data for cell in cells):
        runs: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.data == data:
                runs.setdefault(cell.method, []).append(cell)
        pick, reason = _pick(runs), _reason(runs)
        for method, seeds in runs.items():
            estimated = [mean_and_spread(_estimates(seeds, name)) for name in _GROUPS]
            shown = [CANNOT_TELL] * len(_GROUPS) if reason or not all(estimated) else estimated
            ours, theirs = _paired(seeds, runs.get(baselines.get(method) or "", []))
            against = verdict(ours, theirs)[0] if ours else ""
            mark = "**pick**" if method == pick else ""
            rows.append([data, method, *shown, mean_and_spread(_measured(seeds)), against, mark])
        if reason:
            notes.append(f"{data}: {CANNOT_TELL} how good the methods are; {reason}.")
        if pick:
            if rivals := _rivals(runs, pick):
                notes.append(f"{data}: the estimates cannot tell the pick {pick} from {', '.join(rivals)}.")
            if all(len(_measured(seeds)) == len(seeds) for seeds in runs.values()):
                measured = {method: mean(_measured(seeds)) for method, seeds in runs.items()}
                best = max(measured, key=measured.__getitem__)
                regret = f"{measured[best] - measured[pick]:.1f} points below the best on the test split ({best})"
                notes.append(f"{data}: the pick {pick} is {regret}.")
    return ["## Judged without bias labels\n\n" + "\n\n".join([_ABOUT, markdown_table(rows), *notes])]


def _estimates(cells: Sequence[Cell], group: str) -> list[float]:
    """Estimated accuracy, in percent, of the runs that have an estimate."""
    found = [cell.held_out.estimates() for cell in cells if cell.held_out]
    return [100 * estimates[f"estimated_{group}_accuracy"] for estimates in found if estimates]


def _measured(cells: Sequence[Cell]) -> list[float]:
    """Unbiased accuracy on the test split, in percent, of the runs that have it."""
    key = "unbiased_accuracy"
    return [cell.published[key] for cell in cells if cell.is_of_test and key in cell.published]


def _pick(runs: _Runs) -> str | None:
    """The method with the highest estimate; `None` if there is only one method or a run has no estimate."""
    found = {method: _estimates(cells, "unbiased") for method, cells in runs.items()}
    if len(runs) < 2 or any(len(found[method]) < len(cells) for method, cells in runs.items()):
        return None
    return max(found, key=lambda method: mean(found[method]))


def _rivals(runs: _Runs, pick: str) -> list[str]:
    """Methods whose paired difference from the pick may be chance."""
    pairs = {method: _paired(runs[pick], cells) for method, cells in runs.items() if method != pick}
    gained = {method: gain(*pair).get("unbiased") for method, pair in pairs.items() if pair[0]}
    return [method for method, found in gained.items() if found is None or found.low <= 0]


def _paired(
    cells: Sequence[Cell], others: Sequence[Cell]
) -> tuple[list[HeldOutPredictions], list[HeldOutPredictions]]:
    """Predictions of two methods for the same images, seed by seed."""
    by_seed = {cell.seed: cell.held_out for cell in others}
    found = [(cell.held_out, by_seed.get(cell.seed)) for cell in cells]
    pairs = [(one, other) for one, other in found if one and other and one.is_about(other)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _reason(runs: _Runs) -> str | None:
    """Why the estimates say nothing about the accuracy of these methods; `None` if they do."""
    by_seed: dict[int, list[HeldOutPredictions]] = {}
    for cell in (cell for cells in runs.values() for cell in cells):
        if cell.held_out and cell.held_out.groups.members:
            by_seed.setdefault(cell.seed, []).append(cell.held_out)
    return next(filter(None, (reason_not_to_tell(*models) for models in by_seed.values())), None)


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Formats mean ± sample standard deviation, as far as there are values; with `sign` "+", the mean has a sign."""
    if not values:
        return ""
    return f"{mean(values):{sign}.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
