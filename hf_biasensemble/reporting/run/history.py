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
    """Rewrites the file after each evaluation from the Trainer's log, which checkpoints keep: a resumed run has each
    row once."""

    def __init__(self, file: str | Path):
        self.file = Path(file)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A resumed run loads its log with the keys sorted, hence the fixed order of columns.
        rows = pd.DataFrame(state.log_history, columns=_COLUMNS).dropna(thresh=2)  # the step and a value
        if state.is_world_process_zero and len(rows):
            with written_whole(self.file) as file:
                rows.dropna(axis="columns", how="all").to_csv(file, index=False, lineterminator="\n")
