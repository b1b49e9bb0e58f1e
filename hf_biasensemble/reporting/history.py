"""`history.csv`: one row per evaluation."""

import csv
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.files import written_whole
from hf_biasensemble.metrics.accuracy import METRICS


class HistoryCallback(TrainerCallback):
    """Writes the evaluations of the whole run to a CSV file after each of them.

    The rows come from the Trainer's own log, which is in every checkpoint: a resumed run has the rows of the run
    before it and none twice.

    Args:
        file (`str` or `Path`): The CSV file.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        rows = [
            {"step": entry["step"], **{key: value for key, value in entry.items() if _is_metric(key)}}
            for entry in state.log_history
            if any(_is_metric(key) for key in entry)
        ]
        # In a fixed order: what a resumed run remembers is in that of the alphabet.
        columns = sorted({key for row in rows for key in row}, key=_place)
        with written_whole(self.file) as file, open(file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _place(column: str) -> tuple[int, int]:
    if column == "step":
        return -1, 0
    prefix = next(prefix for prefix in _PREFIXES if column.startswith(prefix))
    metric = column.removeprefix(prefix)
    return _PREFIXES.index(prefix), METRICS.index(metric) if metric in METRICS else len(METRICS)


_PREFIXES = ("validation_", "test_", "raw_validation_", "raw_test_")


def _is_metric(key: str) -> bool:
    return key.startswith(_PREFIXES)
