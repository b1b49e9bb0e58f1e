"""One finished run of a sweep, read from its folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.folders.output_folder import HISTORY_FILE, RESULTS_FILE
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.judging.predictions import HeldOutPredictions, pooled


@dataclass(frozen=True)
class Cell:
    """One finished run of a sweep. Metrics are in percent, on the test split if `is_of_test`, else on the validation
    split; `last_step` also has `last_five_accuracy`, averaged over the last five evaluations."""

    data: str  # configuration of the dataset
    method: str
    seed: int
    last_step: dict[str, float]
    chosen: dict[str, float]  # the published step; empty if that is the last one
    checkpoint_choice: str
    held_out: HeldOutPredictions | None = None  # of the published model
    is_of_test: bool = True

    @classmethod
    def read(cls, folder: Path, data: str, method: str, seed: int, folds: Sequence[Path] = ()) -> "Cell":
        """Reads the results of a run; `folds` are runs of its folds, whose held-out predictions replace its own."""
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        split = "test" if "test_accuracy" in results else "validation"
        choice = results["checkpoint_choice"]
        published = _percent(results, f"{split}_")
        last_step = published if choice == "last" else _percent(results, f"last_step_{split}_")
        history = pd.read_csv(folder / HISTORY_FILE, float_precision="round_trip")
        last_step["last_five_accuracy"] = mean(100 * history[f"{split}_accuracy"].tail(5))
        try:
            held_out = pooled([HeldOutPredictions.load(place, "validation") for place in folds or [folder]])
        except BiasEnsembleError:  # no validation split, or a run of an older version
            held_out = None
        chosen = {} if choice == "last" else published
        return cls(data, method, seed, last_step, chosen, choice, held_out, split == "test")

    @property
    def published(self) -> dict[str, float]:
        """Metrics of the published step."""
        return self.chosen or self.last_step


def _percent(results: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {metric: 100 * results[prefix + metric] for metric in METRICS if prefix + metric in results}
