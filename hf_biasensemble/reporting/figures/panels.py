"""Pictures of single images beside what models make of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.reporting.figures.canvas import COLORS, GREY, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST_IN_PIXELS = 32
_PATCHES = 16
_FEWEST_COLUMNS = 5  # below, the title does not fit


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


@dataclass(frozen=True)
class Explained:
    """What a model says of n images, and where in them it found that.

    Attributes:
        predictions: int64 (n,), predicted classes.
        attributions: float (n, H, W), how much each pixel speaks for (above 0) or against the predicted class.
    """

    predictions: np.ndarray
    attributions: np.ndarray


def evidence_panel(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    explained: Mapping[str, Explained],
    class_names: Sequence[str],
    title: str,
    file: str | Path,
) -> Path:
    """Draws images in the first row and, below, a row per model: its attributions and its prediction.

    Args:
        images (`np.ndarray` of shape (n, C, H, W)): uint8 images.
        labels (`np.ndarray` of shape (n,)): True classes.
        explained (`Mapping[str, Explained]`): What each model says of them, by the name to show.
        class_names (`Sequence[str]`): Names of the classes.
        title (`str`): Title of the picture.
        file (`str` or `Path`): Image to write (.png, .svg, .pdf).

    Returns:
        `Path`: `file`. Each attribution has its own scale. Of images above 32 pixels it is drawn as means over 16 x 16
        patches on the faded image, since single pixels of a photograph tell nothing.
    """
    rows, columns = len(explained) + 1, max(len(images), _FEWEST_COLUMNS)
    figure = new_figure(1.2 * columns + 1.2, 1.55 * rows + 0.6, row_gap=0.06)
    cells = figure.subplots(rows, columns, squeeze=False)
    for cell in cells[:, len(images) :].flat:
        cell.set_visible(False)
    cells = cells[:, : len(images)]
    for cell in cells.flat:
        cell.set_xticks([])
        cell.set_yticks([])
        cell.spines[:].set_visible(False)
    for cell, image, label in zip(cells[0], images, labels, strict=True):
        cell.imshow(np.moveaxis(image, 0, -1).squeeze(), cmap="gray", interpolation="nearest")
        cell.set_xlabel(plain(class_names[label], 16), fontsize=10, color=GREY)
    cells[0, 0].set_ylabel("image and class", fontsize=11)
    for row, (name, model) in zip(cells[1:], explained.items(), strict=True):
        row[0].set_ylabel(plain(name, 20), fontsize=11)
        for cell, image, label, predicted, attribution in zip(
            row, images, labels, model.predictions, model.attributions, strict=True
        ):
            _draw_attribution(cell, image, attribution)
            right = predicted == label
            text = f"{'✓' if right else '✗'} {plain(class_names[predicted], 14)}"
            looks = {"color": GREY} if right else {"color": "black", "fontweight": "bold"}
            cell.set_xlabel(text, fontsize=10, **looks)
    figure.suptitle(plain(title, 120), fontsize=12)
    figure.supxlabel("orange speaks for the predicted class, purple against it", fontsize=10, color=GREY)
    return save(figure, file)


def _draw_attribution(cell: "Axes", image: np.ndarray, attribution: np.ndarray) -> None:
    height, width = attribution.shape
    opacity: np.ndarray | float = 1.0
    place = (0, 1, 1, 0)  # a model may take images of another size
    if max(height, width) > _LARGEST_IN_PIXELS:
        cell.imshow(image.mean(axis=0), cmap="gray", alpha=0.5, extent=place)
        values = Image.fromarray(attribution.astype(np.float32))
        patches = values.resize((_PATCHES, _PATCHES), Image.Resampling.BOX)
        attribution = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC))
        opacity = np.abs(attribution) / (np.abs(attribution).max() or 1.0)
    scale = np.quantile(np.abs(attribution), 0.999) or 1.0
    cell.imshow(
        attribution,
        cmap="PuOr_r",
        vmin=-scale,
        vmax=scale,
        interpolation="nearest",
        alpha=opacity,
        extent=place,
    )
