"""Pictures of single images beside what models make of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.reporting.figures.canvas import COLORS, new_figure, plain, save


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
    shown = classes_in_turn(candidates, truth)[: columns * rows]
    rows = -(-len(shown) // columns)
    class_names = [plain(name) for name in class_names]
    longest = max(len(name) for name in predictions) + max(map(len, class_names)) + 2
    figure = new_figure(max(1.12, 0.092 * longest) * columns, 1.65 * rows + 0.4, row_gap=0.1)
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
    return save(figure, file)


def classes_in_turn(candidates: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The candidates with the first of every class before the second of any."""
    turn = np.empty(len(candidates), dtype=np.int64)
    for label in np.unique(labels[candidates]):
        same = labels[candidates] == label
        turn[same] = np.arange(same.sum())
    return candidates[np.lexsort((labels[candidates], turn))]
