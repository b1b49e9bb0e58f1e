"""Pictures of results: from plain data to one image file each. matplotlib is imported only when one is drawn."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_biasensemble.errors import BiasEnsembleError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colour-blind-safe palette of Okabe and Ito, without its yellow, which is too pale for lines on white.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GROUPS = {
    "aligned_accuracy": "Bias-aligned",
    "conflicting_accuracy": "Bias-conflicting",
    "unbiased_accuracy": "Unbiased",
}
_MARKERS = "osD^v"  # besides the colour
_GREY = "#555555"

Curve = tuple[list[int], list[float]]
"""Steps, and percentages at them."""


def accuracy_curves(histories: Mapping[str, str | Path], file: str | Path, split: str = "test") -> Path:
    """Draws aligned, conflicting and unbiased accuracy over the steps, one panel each and one line per run.

    Args:
        histories (`Mapping[str, str | Path]`): The `history.csv` of each run, by the name to show.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).
        split (`str`, *optional*, defaults to `"test"`): Whose accuracy.

    Returns:
        `Path`: `file`. A panel that no run has values for is left out.

    Raises:
        `BiasEnsembleError`: If there are no runs, a history cannot be read, or it has no such accuracy.
    """
    runs = {name: _read_history(Path(history), split, _GROUPS) for name, history in histories.items()}
    if not runs:
        raise BiasEnsembleError("expected at least one run to draw, found none")
    for name, curves in runs.items():
        if not curves:
            raise BiasEnsembleError(
                f"expected {split} accuracy by group in {histories[name]}, found none; is the bias of {split} known?"
            )
    groups = [group for group in _GROUPS if any(group in curves for curves in runs.values())]
    panels = {
        _GROUPS[group]: {name: curves[group] for name, curves in runs.items() if group in curves} for group in groups
    }
    return _save(_step_panels(panels, list(runs), f"{split} accuracy (%)"), file)


def run_curves(history: str | Path, file: str | Path) -> Path | None:
    """Draws the accuracy of one run over its steps, a panel for each split and a line for each group.

    Args:
        history (`str` or `Path`): The run's `history.csv`.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).

    Returns:
        `Path`: `file`, or `None` if the run was never evaluated; nothing is written then.

    Raises:
        `BiasEnsembleError`: If the history cannot be read.
    """
    if not Path(history).exists():
        return None
    names = {"accuracy": "All", **_GROUPS}
    curves = {split: _read_history(Path(history), split, names) for split in ("validation", "test")}
    panels = {
        split.capitalize(): {names[group]: curve for group, curve in known.items()}
        for split, known in curves.items()
        if known
    }
    lines = [name for name in names.values() if any(name in panel for panel in panels.values())]
    return _save(_step_panels(panels, lines, "accuracy (%)"), file) if panels else None


def sweep_figure(
    values: Mapping[tuple[str, str], Mapping[str, Sequence[float]]], metrics: Mapping[str, str], file: str | Path
) -> Path:
    """Draws accuracy by method: a point for the mean over seeds, a bar for the standard deviation, a tick per seed.

    Args:
        values (`Mapping`): Percentages of each metric, one per seed, by (data, method); a panel per data.
        metrics (`Mapping[str, str]`): The metrics to draw, with the name to show.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).

    Returns:
        `Path`: `file`.
    """
    data = list(dict.fromkeys(name for name, _ in values))
    methods = list(dict.fromkeys(method for _, method in values))
    figure = _new_figure(2.9 * len(data) + 1.6, 0.45 * len(methods) + 1.5)
    panels = figure.subplots(1, len(data), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, data, strict=True):
        for row, method in enumerate(methods):
            for number, metric in enumerate(metrics):
                seeds = np.asarray(values.get((name, method), {}).get(metric, []))
                if len(seeds):
                    height = row + 0.24 * (number - (len(metrics) - 1) / 2)
                    spread = seeds.std(ddof=1) if len(seeds) > 1 else 0.0
                    color = COLORS[number % len(COLORS)]
                    panel.plot(seeds, np.full(len(seeds), height), "|", color=color, markersize=6, alpha=0.6)
                    panel.errorbar(seeds.mean(), height, xerr=spread, fmt="o", color=color, capsize=3, markersize=5)
        panel.set_title(name, fontsize=12, loc="left")
        panel.set_xlim(0, 102)
        panel.set_yticks(range(len(methods)), methods)
        panel.set_xlabel("accuracy (%)", color=_GREY)
        panel.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        panel.tick_params(length=0, labelcolor=_GREY)
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    marks = [panels[0].plot([], [], "o", color=COLORS[number % len(COLORS)])[0] for number in range(len(metrics))]
    figure.legend(marks, list(metrics.values()), loc="outside lower center", ncols=len(metrics), frameon=False)
    return _save(figure, file)


def digit_panel(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    predictions: Mapping[str, Sequence[int] | np.ndarray],
    class_names: Sequence[str],
    file: str | Path,
    columns: int = 8,
    rows: int = 3,
) -> Path:
    """Draws images that the first of two models gets wrong and the second gets right, the classes taking turns.

    Args:
        images (`np.ndarray` of shape (N, C, H, W)): uint8 images.
        labels (`np.ndarray` of shape (N,)): True classes.
        predictions (`Mapping[str, np.ndarray]`): Predicted classes (N,) of two models, by the name to show.
        class_names (`Sequence[str]`): Names of the classes.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).
        columns (`int`, *optional*, defaults to 8): Images side by side, at most.
        rows (`int`, *optional*, defaults to 3): Rows of images, at most.

    Returns:
        `Path`: `file`.

    Raises:
        `BiasEnsembleError`: If there are not two models, the lengths differ, or there is no such image.
    """
    if len(predictions) != 2:
        raise BiasEnsembleError(f"expected the predictions of two models, found {len(predictions)}")
    (first, wrong), (second, right) = ((name, np.asarray(values)) for name, values in predictions.items())
    truth = np.asarray(labels)
    lengths = {len(images), len(truth), len(wrong), len(right)}
    if len(lengths) > 1:
        raise BiasEnsembleError(f"expected as many labels and predictions as images, found {sorted(lengths)}")
    candidates = np.flatnonzero((wrong != truth) & (right == truth))
    if not len(candidates):
        raise BiasEnsembleError(f"expected images that {first} gets wrong and {second} right, found none")
    shown = _classes_in_turn(candidates, truth)[: columns * rows]
    rows = -(-len(shown) // columns)
    figure = _new_figure(1.12 * columns, 1.65 * rows + 0.4, row_gap=0.1)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.axis("off")
    for cell, row in zip(cells, shown, strict=False):
        cell.imshow(np.moveaxis(images[row], 0, -1).squeeze(), cmap="gray", interpolation="nearest")
        cell.set_title(f"true: {class_names[truth[row]]}", fontsize=11, pad=3)
        for height, color, (name, predicted) in zip((-0.05, -0.22), COLORS, predictions.items(), strict=False):
            text = f"{name}: {class_names[predicted[row]]}"
            cell.annotate(text, (0.5, height), xycoords="axes fraction", color=color, ha="center", va="top")
    figure.suptitle(f"{len(candidates):,} of {len(images):,} images: {first} wrong, {second} right", fontsize=13)
    return _save(figure, file)


def _classes_in_turn(candidates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The candidates with the first of every class before the second of any."""
    turn = np.empty(len(candidates), dtype=np.int64)
    for label in np.unique(labels[candidates]):
        same = labels[candidates] == label
        turn[same] = np.arange(same.sum())
    return candidates[np.lexsort((labels[candidates], turn))]


def _read_history(file: Path, split: str, metrics: Iterable[str]) -> dict[str, Curve]:
    """Steps and percentages of each of the metrics that the history has."""
    curves: dict[str, Curve] = {}
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                for metric in metrics:
                    if value := row.get(f"{split}_{metric}"):
                        steps, values = curves.setdefault(metric, ([], []))
                        steps.append(int(row["step"]))
                        values.append(100 * float(value))
    except (OSError, KeyError, ValueError) as error:
        raise BiasEnsembleError(f"expected a history of evaluations in {file}, could not read it ({error})") from error
    return curves


def _step_panels(panels: Mapping[str, Mapping[str, Curve]], names: Sequence[str], ylabel: str) -> "Figure":
    """Panels by title, side by side, with named lines over the steps; a name looks the same in each of them."""
    figure = _new_figure(2.6 * len(panels) + 1.6, 3.1)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, (steps, values) in curves.items():
            number = names.index(name)
            color, marker = COLORS[number % len(COLORS)], _MARKERS[number % len(_MARKERS)]
            panel.plot(steps, values, color=color, linewidth=2, marker=marker, markersize=3.5, label=name)
        panel.set_title(title, fontsize=12, loc="left")
        panel.set_xlabel("step", color=_GREY)
        panel.set_xlim(left=0)
        panel.locator_params(axis="x", nbins=4, integer=True)
        panel.set_ylim(0, 102)
        panel.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        panel.tick_params(length=0, labelcolor=_GREY)
        panel.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_ylabel(ylabel, color=_GREY)
    lines = {line.get_label(): line for panel in axes for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False, fontsize=11)
    return figure


def _new_figure(width: float, height: float, row_gap: float = 0.04) -> "Figure":
    """A figure (inches) for files only: it never opens a window or touches the state of pyplot."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(h_pad=row_gap))


def _save(figure: "Figure", file: str | Path) -> Path:
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return file
