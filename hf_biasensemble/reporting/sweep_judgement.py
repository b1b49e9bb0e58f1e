"""What a sweep says of its methods without bias labels, beside what was measured where the test split has them."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from hf_biasensemble.judging.verdict import CANNOT_TELL, reason_not_to_tell, verdict
from hf_biasensemble.reporting.markdown import markdown_table

if TYPE_CHECKING:
    from hf_biasensemble.reporting.sweep_table import Cell

_ABOUT = (
    "Accuracy of the published models on held-out images, by pseudo-groups of class and what the members of "
    "BiasEnsemble take an image for; the same members judge all methods with the same data and seed. The pick has the "
    "highest estimated unbiased accuracy, as the mean over the seeds; it looks at no bias label and at no test image."
)
PICK = "**pick**"


def judged_section(groups: Mapping[tuple[str, str], list["Cell"]], baselines: Mapping[str, str | None]) -> list[str]:
    """Estimated beside measured accuracy of each method, the pick and, where it can be measured, its regret: by how
    many points the best method exceeds it on the test split.

    Args:
        groups (`Mapping[tuple[str, str], list[Cell]]`): Runs by data and method.
        baselines (`Mapping[str, str]`): By method, the one that it is compared with.
    """
    if not any(cell.held_out and cell.held_out.groups is not None for group in groups.values() for cell in group):
        return []
    header = [
        "data",
        "method",
        "estimated aligned",
        "estimated conflicting",
        "estimated unbiased",
        "measured unbiased",
    ]
    rows, notes = [[*header, "against its baseline", ""]], []
    for data in dict.fromkeys(name for name, _ in groups):
        of_data = {method: cells for (name, method), cells in groups.items() if name == data}
        pick = picked(of_data)
        for method, cells in of_data.items():
            measured = mean_and_spread(_measured(cells))
            against = _against(cells, of_data.get(baselines.get(method) or "", []))
            estimated = [mean_and_spread(estimated_accuracy(cells, name)) for name in header_groups()]
            shown = estimated if any(estimated) else [CANNOT_TELL] * len(estimated)
            rows.append([data, method, *shown, measured, against, PICK if method == pick else ""])
        notes += _notes(data, of_data, pick)
    return ["## Judged without bias labels\n\n" + "\n\n".join([_ABOUT, markdown_table(rows), *notes])]


def header_groups() -> tuple[str, ...]:
    """Groups of the table, in its order."""
    return ("aligned", "conflicting", "unbiased")


def estimated_accuracy(cells: Sequence["Cell"], group: str) -> list[float]:
    """Estimates of the runs in percent, of those that can be judged."""
    found = [cell.held_out.estimates() for cell in cells if cell.held_out and not reason_not_to_tell(cell.held_out)]
    return [100 * estimates[f"estimated_{group}_accuracy"] for estimates in found]


def picked(of_data: Mapping[str, Sequence["Cell"]]) -> str | None:
    """The method with the highest estimate; `None` where not all can be judged, or there is one only."""
    means = {method: estimated_accuracy(cells, "unbiased") for method, cells in of_data.items()}
    if len(means) < 2 or any(len(means[method]) < len(cells) for method, cells in of_data.items()):
        return None
    return max(means, key=lambda method: mean(means[method]))


def _measured(cells: Sequence["Cell"]) -> list[float]:
    """Unbiased accuracy on the test split, in percent."""
    return [
        cell.published["unbiased_accuracy"]
        for cell in cells
        if cell.is_of_test and "unbiased_accuracy" in cell.published
    ]


def _against(cells: Sequence["Cell"], others: Sequence["Cell"]) -> str:
    """Whether estimates say that the method beats its baseline on bias-conflicting images, seed by seed."""
    plain = {cell.seed: cell.held_out for cell in others}
    said = []
    for cell in cells:
        other = plain.get(cell.seed)
        if cell.held_out and other and cell.held_out.is_about(other):
            said.append(verdict(cell.held_out, other)[0])
    return ", ".join(f"{answer} ({said.count(answer)} of {len(said)})" for answer in dict.fromkeys(said))


def _notes(data: str, of_data: Mapping[str, Sequence["Cell"]], pick: str | None) -> list[str]:
    """Why there is no pick, or what it costs."""
    reasons = {
        reason_not_to_tell(cell.held_out)
        for cells in of_data.values()
        for cell in cells
        if cell.held_out and cell.held_out.groups is not None
    } - {None}
    if pick is None:
        return [f"{data}: {CANNOT_TELL} which is best; {reason}." for reason in sorted(map(str, reasons))]
    measured = {method: _measured(cells) for method, cells in of_data.items()}
    if any(len(measured[method]) < len(cells) for method, cells in of_data.items()):
        return []
    best = max(measured, key=lambda method: mean(measured[method]))
    regret = mean(measured[best]) - mean(measured[pick])
    return [f"{data}: the pick {pick} is {regret:.1f} points below the best on the test split ({best})."]


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, as far as there are enough values."""
    if not values:
        return ""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
