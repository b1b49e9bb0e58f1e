"""Learning curves from the `history.csv` of runs."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.evaluation.difficulty import DIFFICULTIES
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.reporting.figures.canvas import (
    ALIGNED,
    COLORS,
    CONFLICTING,
    GROUP_LOOKS,
    MARKERS,
    new_figure,
    save,
    tidy,
)

_GROUPS = {"aligned_accuracy": ALIGNED, "conflicting_accuracy": CONFLICTING, "unbiased_accuracy": "Unbiased"}
_ESTIMATED = "Validation, estimated\nwithout bias labels"
_DIFFICULTIES = dict(
    zip(DIFFICULTIES, ("Relative difficulty", "Biased model's loss", "Debiased model's loss"), strict=True)
)


def accuracy_curves(histories: Mapping[str, str | Path], file: str | Path, split: str = "test") -> Path:
    """Plots bias-aligned, bias-conflicting and unbiased accuracy over the steps, a panel each with a line per run.

    Args:
        histories (`Mapping[str, str | Path]`): The `history.csv` of each run, by the name to show.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).
        split (`str`, *optional*, defaults to `"test"`): The evaluated split, `"validation"` or `"test"`.

    Returns:
        `Path`: `file`. Panels without values are omitted.

    Raises:
        `BiasEnsembleError`: If there are no runs, or a history is unreadable or lacks accuracy by group.
    """
    columns = {f"{split}_{metric}": name for metric, name in _GROUPS.items()}
    runs = {name: _read_history(history) for name, history in histories.items()}
    if not runs:
        raise BiasEnsembleError("expected at least one run to draw, found none")
    for name, history in runs.items():
        if not columns.keys() & history.columns:
            raise BiasEnsembleError(
                f"expected {split} accuracy by group in {histories[name]}, found none; is the bias of {split} known?"
            )
    panels = {
        group: {name: history[column] for name, history in runs.items() if column in history}
        for column, group in columns.items()
    }
    looks = {name: (COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]) for n, name in enumerate(runs)}
    return _draw(panels, looks, f"{split} accuracy (%)", file, percent=True)


def run_curves(history: str | Path, file: str | Path) -> Path | None:
    """Draws the accuracy of one run over its steps: a panel per split, and one for estimates without bias labels, with
    a line per group. `None` if the run was never evaluated."""
    metrics = {"accuracy": "All", **_GROUPS}
    splits = ("validation", "test")
    panels = {split.capitalize(): {f"{split}_{metric}": name for metric, name in metrics.items()} for split in splits}
    panels[_ESTIMATED] = {f"validation_estimated_{metric}": name for metric, name in _GROUPS.items()}
    return _draw_groups(history, file, panels, "accuracy (%)", percent=True)


def difficulty_curves(history: str | Path, file: str | Path) -> Path | None:
    """Draws mean relative difficulty and the scaled losses of LfF's or DisEnt's two networks over the steps, by group
    if known. `None` if the run did not log them."""
    groups = {"": "All", "aligned_": ALIGNED, "conflicting_": CONFLICTING}
    panels = {
        title: {f"train_{group}{metric}": name for group, name in groups.items()}
        for metric, title in _DIFFICULTIES.items()
    }
    return _draw_groups(history, file, panels, "mean over the training images seen")


def _read_history(file: str | Path) -> pd.DataFrame:
    """Evaluations by step, without empty columns."""
    try:
        return pd.read_csv(file, index_col="step", dtype=float).dropna(axis="columns", how="all")
    except (OSError, ValueError) as error:
        raise BiasEnsembleError(f"expected a history of evaluations in {file}, could not read it ({error})") from error


def _draw_groups(
    file_of_history: str | Path,
    file: str | Path,
    panels: Mapping[str, Mapping[str, str]],
    ylabel: str,
    percent: bool = False,
) -> Path | None:
    """Draws columns of one history; `panels` give the group of each column by the panel's title."""
    if not Path(file_of_history).exists():
        return None
    history = _read_history(file_of_history)
    curves = {
        title: {group: history[column] for column, group in columns.items() if column in history}
        for title, columns in panels.items()
    }
    return _draw(curves, GROUP_LOOKS, ylabel, file, percent) if any(curves.values()) else None


def _draw(
    panels: Mapping[str, Mapping[str, pd.Series]],
    looks: Mapping[str, tuple[str, str]],
    ylabel: str,
    file: str | Path,
    percent: bool,
) -> Path:
    """Draws panels side by side, by title, each with lines by name; `looks` are the colour and marker of a name."""
    panels = {title: curves for title, curves in panels.items() if curves}
    figure = new_figure(2.6 * len(panels) + 1.6, 3.1, column_gap=0.1)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    scale = 100 if percent else 1
    lines = {}
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, curve in curves.items():
            color, marker = looks[name]
            shown = scale * curve.dropna()
            (lines[name],) = panel.plot(shown.index, shown, color=color, linewidth=2, marker=marker, markersize=3.5)
        tidy(panel, title, "step", ylabel if panel is axes[0] else "")
        panel.set_xlim(left=0)
        panel.locator_params(axis="x", nbins=4, integer=True)
        panel.set_ylim(0, 1.02 * scale)
    ordered = [name for name in looks if name in lines]
    figure.legend([lines[name] for name in ordered], ordered, loc="outside right center", frameon=False, fontsize=11)
    return save(figure, file)
