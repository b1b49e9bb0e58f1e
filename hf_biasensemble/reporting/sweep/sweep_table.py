"""The tables of a sweep: mean and spread over seeds, and the gain of each method over its baseline."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.internal.files import write_text, written_whole
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
_RUN = ["data", "method"]


def write_sweep_tables(
    cells: Sequence[Cell],
    folder: Path,
    missing: Sequence[str] = (),
    baselines: Mapping[str, str | None] | None = None,
) -> str:
    """Writes `table.md`, `table.csv` (mean and standard deviation), `cells.csv` (one row per run) and `table.png`, and
    returns the text of `table.md`. `missing` lists runs without a result, `baselines` is by method."""
    baselines = baselines or {}
    runs, chosen = (
        pd.DataFrame(
            {"data": cell.data, "method": cell.method, "seed": cell.seed, **getattr(cell, which)}
            for cell in cells
            if getattr(cell, which)
        )
        for which in ("last_step", "chosen")
    )
    metrics = [metric for metric in _NAMES if metric in runs]
    sections = [
        "Accuracy in percent, mean ± standard deviation over seeds (sample standard deviation, ddof 1).",
        f"## Last step\n\n{_means_table(runs, metrics)}",
    ]
    if len(chosen):
        choice = next(cell.checkpoint_choice for cell in cells if cell.chosen)
        mark = ORACLE_MARK if choice == "oracle_test" else choice
        known = [metric for metric in metrics if metric in METRICS and metric in chosen]
        sections.append(f"## Published step ({mark})\n\n{_means_table(chosen, known)}")
    sections += [*_gain_section(runs, metrics, baselines), *judged_section(cells, baselines)]
    sections += ["## Without a result\n\n" + "\n".join(f"- {line}" for line in missing)] if missing else []
    text = "\n\n".join(sections)
    write_text(folder / "table.md", text + "\n")
    by_run = runs.groupby(_RUN, sort=False)
    summary = by_run[metrics].agg(["mean", "std"])
    summary.columns = [f"{metric}_{'mean' if of == 'mean' else 'sd'}" for metric, of in summary.columns]
    summary.insert(0, "seeds", by_run["seed"].agg(lambda seeds: " ".join(map(str, seeds))))
    _write_csv(summary.reset_index(), folder / "table.csv")
    rows = runs.assign(checkpoint_choice=[cell.checkpoint_choice for cell in cells])
    rows = rows.join(pd.DataFrame([cell.chosen for cell in cells]).add_prefix("published_"))
    _write_csv(rows, folder / "cells.csv")
    drawn = [metric for metric in metrics if metric in ("aligned_accuracy", "conflicting_accuracy")] or ["accuracy"]
    sweep_figure(
        {name: {metric: of_run[metric].dropna().tolist() for metric in drawn} for name, of_run in by_run},
        {metric: _NAMES[metric] for metric in drawn},
        folder / "table.png",
    )
    return text


def _means_table(runs: pd.DataFrame, metrics: Sequence[str]) -> str:
    rows = [["data", "method", "seeds", *(_NAMES[metric] for metric in metrics)]]
    for (data, method), of_run in runs.groupby(_RUN, sort=False):
        cells = [mean_and_spread(of_run[metric].dropna().tolist()) for metric in metrics]
        rows.append([data, method, ", ".join(map(str, of_run["seed"])), *cells])
    return markdown_table(rows)


def _gain_section(runs: pd.DataFrame, metrics: Sequence[str], baselines: Mapping[str, str | None]) -> list[str]:
    """Gains at the last step, paired by seed."""
    rows = [["data", "method", "baseline", "accuracy", "per seed", "mean ± sd", "higher"]]
    by_run = {name: of_run.set_index("seed") for name, of_run in runs.groupby(_RUN, sort=False)}
    for (data, method), of_run in by_run.items():
        baseline = baselines.get(method)
        if (data, baseline) in by_run:
            for metric in metrics:
                gains = (of_run[metric] - by_run[data, baseline][metric]).dropna()
                if len(gains):
                    listed = ", ".join(f"seed {seed}: {gain:+.1f}" for seed, gain in gains.items())
                    gain = mean_and_spread(gains.tolist(), sign="+")
                    rows.append([data, method, str(baseline), _NAMES[metric], listed, gain, _verdict(gains)])
    if len(rows) == 1:
        return []
    about = "Percentage points at the last step, each seed against the same seed of the baseline."
    return [f"## What each method adds to its baseline\n\n{about}\n\n{markdown_table(rows)}"]


def _verdict(gains: pd.Series) -> str:
    if len(gains) == 1:
        return "one seed only"
    higher = int((gains > 0).sum())
    return {0: "in no seed", len(gains): "in every seed"}.get(higher, f"in {higher} of {len(gains)} seeds")


def _write_csv(rows: pd.DataFrame, path: Path) -> None:
    with written_whole(path) as file:
        rows.to_csv(file, index=False)
