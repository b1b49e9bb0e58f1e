"""A heat map of accuracy by class and bias attribute."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_biasensemble.evaluation.accuracy import accuracy_by_group
from hf_biasensemble.reporting.figures.canvas import GREY, PALE, new_figure, plain, save, tidy

WIDEST = 40
"""Most classes or values of the attribute; with more, the cells are unreadable."""


def group_heat_map(
    predictions: np.ndarray,
    labels: np.ndarray,
    attribute: np.ndarray,
    class_names: Sequence[str],
    attribute_names: Sequence[str],
    file: str | Path,
) -> Path | None:
    """Draws accuracy by class (rows) and bias attribute (columns); groups without images are grey with a dash. `None`
    if there are more than `WIDEST` of either.

    `predictions`, `labels` and `attribute` are (N,); the attribute is the bias label, or whether bias-conflicting.
    """
    shape = (len(class_names), len(attribute_names))
    if max(shape) > WIDEST:
        return None
    groups, accuracy, counts = accuracy_by_group(predictions, labels, attribute)
    shares = np.full(shape, np.nan)
    shares[tuple(groups.T)] = accuracy
    numbers = np.zeros(shape, dtype=int)
    numbers[tuple(groups.T)] = counts

    few = max(shape) <= 12
    width, height, size = (0.62, 0.5, 10) if few else (0.36, 0.3, 7)
    figure = new_figure(max(width * shape[1] + 2.4, 4.8), height * shape[0] + 1.6)
    panel = figure.subplots()
    panel.set_facecolor(PALE)
    picture = panel.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        text, color = "–", GREY
        if numbers[row, column]:
            text, color = f"{100 * share:.0f}", "white" if share < 0.45 else "black"
            if few:
                count = f"{numbers[row, column]:,}"
                panel.text(column, row + 0.28, count, ha="center", va="center", color=color, fontsize=6.5)
        panel.text(column, row - 0.1 * few, text, ha="center", va="center", color=color, fontsize=size)
    names = [plain(name, 16) for name in attribute_names]
    turned = (max(map(len, names)) + 1) * size * 0.0072 > (figure.get_figwidth() - 1.8) / shape[1]  # inches
    panel.set_xticks(
        range(shape[1]), names, rotation=45 if turned else 0, ha="right" if turned else "center", fontsize=size
    )
    panel.set_yticks(range(shape[0]), [plain(name) for name in class_names], fontsize=size)
    tidy(panel, f"Accuracy (%){' and images' if few else ''} by group", "bias attribute", "class")
    panel.spines[:].set_visible(False)
    panel.grid(visible=False)
    panel.set_xticks(np.arange(shape[1] + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(shape[0] + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.tick_params(which="minor", length=0)
    bar = figure.colorbar(picture, ax=panel, ticks=[0, 0.5, 1], shrink=0.7)
    bar.ax.set_yticklabels(["0", "50", "100"], color=GREY)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return save(figure, file)
