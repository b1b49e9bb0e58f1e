"""`history.csv`: one row per evaluation."""

import csv
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.evaluation.difficulty import DIFFICULTY_METRICS
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.judging.estimates import ESTIMATES


class HistoryCallback(TrainerCallback):
    """Writes the evaluations of the whole run to a CSV file after each of them.

    The rows come from the Trainer's own log, which is in every checkpoint: a resumed run has the rows of the run
    before it and none twice.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        rows = [{name: entry[name] for name in _COLUMNS if name in entry} for entry in state.log_history]
        rows = [row for row in rows if len(row) > 1]  # each has the step
        # In a fixed order: what a resumed run remembers is in that of the alphabet.
        columns = [name for name in _COLUMNS if any(name in row for row in rows)]
        with written_whole(self.file) as file, open(file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


_COLUMNS = (
    "step",
    *(f"{split}_{metric}" for split in ("validation", "test", "raw_validation", "raw_test") for metric in METRICS),
    *(f"{split}_{metric}" for split in ("validation", "raw_validation") for metric in ESTIMATES),
    *(f"train_{metric}" for metric in DIFFICULTY_METRICS),
)
