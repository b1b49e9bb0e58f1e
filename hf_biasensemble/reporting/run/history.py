"""`history.csv`: one row per evaluation."""

from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from transformers import TrainerCallback

from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.evaluation.difficulty import DIFFICULTY_METRICS
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.judging.estimates import ESTIMATES

_COLUMNS = (
    "step",
    *(f"{split}_{metric}" for split in ("validation", "test", "raw_validation", "raw_test") for metric in METRICS),
    *(f"{split}_{metric}" for split in ("validation", "raw_validation") for metric in ESTIMATES),
    *(f"train_{metric}" for metric in DIFFICULTY_METRICS),
)


class HistoryCallback(TrainerCallback):
    """Writes the evaluations of the whole run to a CSV file after each of them.

    The rows come from the Trainer's own log, which is in every checkpoint: a resumed run has the rows of the run
    before it and none twice.
    """

    def __init__(self, file: str | Path):
        self.file = Path(file)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Columns in a fixed order: what a resumed run remembers is in that of the alphabet.
        rows = pd.DataFrame(state.log_history, columns=_COLUMNS).dropna(thresh=2)  # each has the step
        if state.is_world_process_zero and len(rows):
            with written_whole(self.file) as file:
                rows.dropna(axis="columns", how="all").to_csv(file, index=False, lineterminator="\n")
