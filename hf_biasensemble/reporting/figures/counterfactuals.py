"""Figures of counterfactual images and of how often predictions change on them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.reporting.figures.canvas import GREY, MODEL_COLORS, PALE, new_figure, plain, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORIGINAL = "original"


def counterfactual_panel(
    images: Mapping[str, np.ndarray],
    labels: Sequence[int] | np.ndarray,
    probabilities: Mapping[str, Mapping[str, np.ndarray]],
    class_names: Sequence[str],
    title: str,
    file: str | Path,
) -> Path:
    """Draws a row per image with the predictions below each version of it; those that change are bold, with an arrow.

    `images` are versions of n images, uint8 (n, 3, H, W), `ORIGINAL` first; `labels` are the true classes (n,);
    `probabilities` are by model (at most two) and version, (n, C).
    """
    colors = MODEL_COLORS[-len(probabilities) :]
    rows, columns = len(labels), len(images)
    lines = 0.25 * len(probabilities) + 0.12
    figure = new_figure(1.25 * columns + 0.4, (1.22 + lines) * rows + 1.1, row_gap=0.02, column_gap=0.06)
    cells = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1.22, lines] * rows)
    for cell in cells.flat:
        cell.set_xticks([])
        cell.set_yticks([])
        cell.spines[:].set_visible(False)
    for column, (version, versions) in enumerate(images.items()):
        cells[0, column].set_title(version, fontsize=11)
        for row, image in enumerate(versions):
            picture, below = cells[2 * row : 2 * row + 2, column]
            picture.imshow(np.moveaxis(image, 0, -1).squeeze(), cmap="gray", interpolation="nearest")
            below.set_xlim(0, 1)
            below.set_ylim(len(probabilities) + 0.5, 0)
            for line, (found, color) in enumerate(zip(probabilities.values(), colors, strict=True)):
                _draw_prediction(below, line, found[ORIGINAL][row], found[version][row], class_names, color)
    for row, label in enumerate(labels):
        cells[2 * row, 0].set_ylabel(plain(class_names[label], 16), fontsize=11)
    figure.suptitle(f"{plain(title, 120)}\n", fontsize=12)
    marks = [cells[1, 0].barh(0, 0, color=color) for color in colors]
    figure.legend(
        marks,
        [plain(name) for name in probabilities],
        loc="outside lower center",
        ncols=len(probabilities),
        frameon=False,
        fontsize=11,
        title="predicted class and its probability; bar: probability of the class predicted for the original",
        title_fontsize=10,
    )
    return save(figure, file)


def _draw_prediction(
    cell: "Axes", line: int, before: np.ndarray, after: np.ndarray, class_names: Sequence[str], color: str
) -> None:
    """Draws the prediction for a changed image from probabilities (C,) `before` and `after` the change."""
    changed = after.argmax() != before.argmax()
    weight, text_color = ("bold", "black") if changed else ("normal", GREY)
    name = plain(class_names[int(after.argmax())], 13)
    words = [(0, "left", f"→ {name}" if changed else name), (1, "right", f"{100 * after.max():.0f}%")]
    for place, side, text in words:
        cell.text(place, line + 0.42, text, ha=side, va="center", fontsize=9, fontweight=weight, color=text_color)
    cell.barh(line + 0.86, 1, height=0.14, color=PALE)
    cell.barh(line + 0.86, after[before.argmax()], height=0.14, color=color)


def reliance_figure(table: pd.DataFrame, file: str | Path) -> Path:
    """Draws the fractions of changed predictions in the table of [`measure_reliance`], for at most two models."""
    names, models = table["counterfactual"].unique(), table["model"].unique()
    figure = new_figure(6.4, 0.42 * len(names) + 1.5)
    panel = figure.subplots()
    for number, (model, color) in enumerate(zip(models, MODEL_COLORS[-len(models) :], strict=True)):
        found = 100 * table.loc[table["model"] == model, ["fraction", "low", "high"]]
        heights = np.arange(len(names)) + 0.26 * (number - (len(models) - 1) / 2)
        spread = np.maximum([found["fraction"] - found["low"], found["high"] - found["fraction"]], 0)
        panel.errorbar(
            found["fraction"], heights, xerr=spread, fmt="os"[number], color=color, capsize=3, label=plain(model)
        )
    title = f"Predictions that change, {table['images'].iloc[0]:,} images"
    tidy(panel, title, "% of the predictions, with 95% confidence interval", grid="x")
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlim(-1, 101)
    figure.legend(loc="outside lower center", ncols=len(models), frameon=False)
    return save(figure, file)
