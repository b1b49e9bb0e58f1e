"""The figures of a finished run, which its model card shows."""

from pathlib import Path

import numpy as np

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.folders.output_folder import (
    ACCURACY_FIGURE,
    DIFFICULTY_FIGURE,
    FIGURE_FILES,
    GROUPS_FIGURE,
    HISTORY_FILE,
    SELECTION_FIGURE,
)
from hf_biasensemble.reporting.figures.curves import difficulty_curves, run_curves
from hf_biasensemble.reporting.figures.groups import group_heat_map
from hf_biasensemble.reporting.figures.selection import selection_histogram
from hf_biasensemble.selection import Selection


def write_run_figures(
    output_dir: str | Path,
    selection: Selection | None = None,
    test: ImageSplit | None = None,
    predictions: np.ndarray | None = None,
) -> list[Path]:
    """Replaces the figures in a run's folder: curves from its `history.csv`, the votes of its selection, and accuracy
    by group from the published model's predictions (N,) on the test split. Figures without data are omitted."""
    folder = Path(output_dir)
    for name in FIGURE_FILES:
        (folder / name).unlink(missing_ok=True)
    history = folder / HISTORY_FILE
    drawn = [run_curves(history, folder / ACCURACY_FIGURE), difficulty_curves(history, folder / DIFFICULTY_FIGURE)]
    if selection is not None:
        drawn.append(selection_histogram(selection, folder / SELECTION_FIGURE))
    if test is not None and predictions is not None and (groups := test.groups()):
        names, attribute = groups
        labels = test.measured_by()["labels"]
        drawn.append(group_heat_map(predictions, labels, attribute, test.class_names, names, folder / GROUPS_FIGURE))
    return [file for file in drawn if file]
