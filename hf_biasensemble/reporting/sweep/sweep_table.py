"""The comparison that a sweep was run for: mean and spread over seeds, and what each adds to its baseline, by seed."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.reporting.card.markdown import markdown_table
from hf_biasensemble.reporting.figures.sweep import sweep_figure
from hf_biasensemble.reporting.run.progress import ORACLE_MARK
from hf_biasensemble.reporting.sweep.cell import Cell
from hf_biasensemble.reporting.sweep.sweep_judgement import judged_section, mean_and_spread

_NAMES = {
    "aligned_accuracy": "bias-aligned",
    "conflicting_accuracy": "bias-conflicting",
    "accuracy": "all",
    "unbiased_accuracy": "unbiased",
    "worst_group_accuracy": "worst group",
    "last_five_accuracy": "all, mean of the last five evaluations",
}


def write_sweep_tables(
    cells: Sequence[Cell],
    folder: Path,
    missing: Sequence[str] = (),
    baselines: Mapping[str, str | None] | None = None,
) -> str:
    """Writes `table.md`, `table.csv` (mean and standard deviation), `cells.csv` (one row per run) and `table.png`.

    Args:
        cells (`Sequence[Cell]`): The finished runs, in the order of the rows.
        folder (`Path`): Where to.
        missing (`Sequence[str]`, *optional*): Runs without a result, and why.
        baselines (`Mapping[str, str]`, *optional*): By method, the one that its gain is counted against.

    Returns:
        `str`: The content of `table.md`.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.data, cell.method), []).append(cell)
    metrics = [metric for metric in _NAMES if any(metric in cell.last_step for cell in cells)]
    text = "\n\n".join(
        [
            "Accuracy in percent, mean ± standard deviation over seeds (sample standard deviation, ddof 1).",
            "## Last step\n\n" + _means_table(groups, metrics, "last_step"),
            *_chosen_section(groups, metrics),
            *_gain_section(groups, metrics, baselines or {}),
            *judged_section(groups, baselines or {}),
            *(["## Without a result\n\n" + "\n".join(f"- {line}" for line in missing)] if missing else []),
        ]
    )
    with written_whole(folder / "table.md") as file:
        file.write_text(text + "\n", encoding="utf-8")
    _write_csv(folder / "table.csv", [_summary_row(group, metrics) for group in groups.values()])
    _write_csv(folder / "cells.csv", [_cell_row(cell) for cell in cells])
    sweep_figure(
        {name: {metric: _values(group, metric) for metric in metrics} for name, group in groups.items()},
        {metric: _NAMES[metric] for metric in metrics if metric in ("aligned_accuracy", "conflicting_accuracy")}
        or {"accuracy": "all"},
        folder / "table.png",
    )
    return text


def _means_table(groups: Mapping[tuple[str, str], list[Cell]], metrics: Sequence[str], which: str) -> str:
    rows = [["data", "method", "seeds", *(_NAMES[metric] for metric in metrics)]]
    for (data, method), group in groups.items():
        cells = [mean_and_spread(_values(group, metric, which)) for metric in metrics]
        rows.append([data, method, ", ".join(str(cell.seed) for cell in group), *cells])
    return markdown_table(rows)


def _chosen_section(groups: Mapping[tuple[str, str], list[Cell]], metrics: Sequence[str]) -> list[str]:
    """The published step, for runs that did not publish the last."""
    chosen = {name: group for name, group in groups.items() if group[0].chosen}
    if not chosen:
        return []
    choice = next(iter(chosen.values()))[0].checkpoint_choice
    mark = ORACLE_MARK if choice == "oracle_test" else choice
    table = _means_table(chosen, [metric for metric in metrics if metric in METRICS], "chosen")
    return [f"## Published step ({mark})\n\n{table}"]


def _gain_section(
    groups: Mapping[tuple[str, str], list[Cell]], metrics: Sequence[str], baselines: Mapping[str, str | None]
) -> list[str]:
    """What a method adds to its baseline at the last step, paired by seed."""
    rows = [["data", "method", "baseline", "accuracy", "per seed", "mean ± sd", "higher"]]
    for (data, method), group in groups.items():
        plain = {cell.seed: cell.last_step for cell in groups.get((data, baselines.get(method) or ""), [])}
        for metric in metrics:
            gains = {
                cell.seed: cell.last_step[metric] - plain[cell.seed][metric]
                for cell in group
                if cell.seed in plain and metric in cell.last_step
            }
            if gains:
                listed = ", ".join(f"seed {seed}: {gain:+.1f}" for seed, gain in gains.items())
                gain, baseline = _gain(list(gains.values())), str(baselines[method])
                rows.append([data, method, baseline, _NAMES[metric], listed, gain, _verdict(gains)])
    if len(rows) == 1:
        return []
    about = "Percentage points at the last step, each seed against the same seed of the baseline."
    return [f"## What each method adds to its baseline\n\n{about}\n\n{markdown_table(rows)}"]


def _verdict(gains: Mapping[int, float]) -> str:
    if len(gains) < 2:
        return "one seed only"
    up = sum(gain > 0 for gain in gains.values())
    return {len(gains): "in every seed", 0: "in no seed"}.get(up, f"in {up} of {len(gains)} seeds")


def _values(group: Sequence[Cell], metric: str, which: str = "last_step") -> list[float]:
    return [getattr(cell, which)[metric] for cell in group if metric in getattr(cell, which)]


def _gain(values: Sequence[float]) -> str:
    return f"{mean(values):+.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _summary_row(group: Sequence[Cell], metrics: Sequence[str]) -> dict[str, str]:
    row = {"data": group[0].data, "method": group[0].method, "seeds": " ".join(str(cell.seed) for cell in group)}
    for metric in metrics:
        values = _values(group, metric)
        row[f"{metric}_mean"] = repr(mean(values)) if values else ""
        row[f"{metric}_sd"] = repr(stdev(values)) if len(values) > 1 else ""
    return row


def _cell_row(cell: Cell) -> dict[str, str]:
    row = {"data": cell.data, "method": cell.method, "seed": str(cell.seed)}
    row |= {metric: repr(value) for metric, value in cell.last_step.items()}
    row["checkpoint_choice"] = cell.checkpoint_choice
    return row | {f"published_{metric}": repr(value) for metric, value in cell.chosen.items()}


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as file, open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
