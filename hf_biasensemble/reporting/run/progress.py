"""The progress printed during a run, and the table of results at its end."""

import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback

from hf_biasensemble.evaluation.accuracy import METRICS

ORACLE_MARK = "oracle, chosen on the test set"
_WIDTH = 11  # of a column
_SPLITS = ("train", "validation", "test")
_ACCURACIES = {  # headings of the metrics of a split, in the order of the columns
    "aligned_accuracy": "aligned",
    "conflicting_accuracy": "conflict.",
    "unbiased_accuracy": "unbiased",
    "estimated_aligned_accuracy": "est.align.",
    "estimated_conflicting_accuracy": "est.confl.",
    "estimated_unbiased_accuracy": "est.unb.",
}
_Column = tuple[str, str, str]  # key, group and heading


class NamedProgressCallback(TrainerCallback):
    """Prints a table of losses, learning rate and accuracy under the title `name`: a row per evaluation, or ten rows
    if nothing is evaluated. On a terminal, a progress bar stays below it."""

    def __init__(self, name: str):
        self.name = name
        self.bar: tqdm | None = None
        self.training: dict[str, float] = {}
        self.evaluated: dict[str, float] = {}
        self.columns: list[_Column] = []
        self.next_row: float = math.inf  # step of the next row without evaluations

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if args.eval_strategy == "no":
            self.next_row = state.global_step + state.max_steps / 10
        if not args.disable_tqdm and sys.stderr.isatty():
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.name, dynamic_ncols=True, leave=False
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.training = logs
            if not self.evaluated and state.global_step >= self.next_row:
                self._print_row(state.global_step)
                self.next_row += state.max_steps / 10

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and metrics:
            self.evaluated = metrics
            self._print_row(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def _print_row(self, step: int) -> None:
        columns = _columns(self.training, self.evaluated)
        lines = [] if self.columns else [self.name]
        lines += [] if columns == self.columns else _header(columns)
        values = self.training | self.evaluated
        lines.append(f"{step:>8}" + "".join(_cell(key, values[key]).rjust(_WIDTH) for key, *_ in columns))
        self.columns = columns
        tqdm.write("\n".join(lines))  # above the bar, if there is one
        sys.stdout.flush()


def use_own_progress(trainer: Trainer) -> None:
    """Removes the Trainer's progress bar (in a notebook, its table) and printed logs, which a
    [`NamedProgressCallback`] replaces."""
    trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
    trainer.remove_callback(PrinterCallback)


def _columns(training: dict[str, float], evaluated: dict[str, float]) -> list[_Column]:
    """Learning rate, loss and, if there are several, its terms; then the accuracies of each split, then of members.
    A split without bias labels has one accuracy; metrics of unpublished weights have no column."""
    terms = [key for key in training if key.startswith("loss_")]
    columns = [("learning_rate", "", "lr"), ("loss", "losses", "loss")]
    columns += [(key, "losses", key.removeprefix("loss_")) for key in terms if len(terms) > 1]
    for split in _SPLITS:
        if f"{split}_conflicting_accuracy" not in evaluated:
            columns.append((f"{split}_accuracy", split, "accuracy"))
        columns += [(f"{split}_{name}", split, heading) for name, heading in _ACCURACIES.items()]
    for key in evaluated:
        split, _, member = key.partition("_accuracy_")
        columns += [(key, split, member)] if member.startswith("member_") else []
    return [column for column in columns if column[0] in training or column[0] in evaluated]


def _header(columns: list[_Column]) -> list[str]:
    """Two lines: each group above its first column, then the headings."""
    groups = pairwise(["", *(group for _, group, _ in columns)])
    above = "".join((group if group != last else "").rjust(_WIDTH) for last, group in groups)
    headings = "".join(heading[: _WIDTH - 1].rjust(_WIDTH) for *_, heading in columns)
    return [f"{'':8}{above}".rstrip(), f"{'step':>8}{headings}"]


def _cell(key: str, value: float) -> str:
    if key == "learning_rate":
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def results_table(results: dict[str, dict[str, float]], splits: Sequence[str] = ("validation", "test")) -> str:
    """Formats results as a text table, in percent: a row per run and split, a column per metric.

    Args:
        results: The results of each run, such as `all_results.json`, by the name to show.
        splits: The splits to show. Runs and metrics without values are omitted.
    """
    rows = {
        f"{name} {split}".strip(): {
            metric: 100 * values[f"{split}_{metric}"] for metric in METRICS if f"{split}_{metric}" in values
        }
        for name, values in results.items()
        for split in splits
    }
    table = pd.DataFrame.from_dict({name: row for name, row in rows.items() if row}, orient="index")
    table = table[[metric for metric in METRICS if metric in table]]
    headers = [metric.removesuffix("_accuracy").replace("_", " ") for metric in table]
    return str(table.to_string(header=headers, float_format="{:.1f}".format, na_rep="-", col_space=12))
