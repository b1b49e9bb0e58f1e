"""What a person sees while a run goes on, and the table at its end."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback

from hf_biasensemble.evaluation.accuracy import METRICS

ORACLE_MARK = "oracle, chosen on the test set"
_WIDTH = 11  # of a column
_GROUPS = ("train", "validation", "test")
_ACCURACIES = {  # in this order; the last word of a key after the split, and its heading
    "aligned_accuracy": "aligned",
    "conflicting_accuracy": "conflict.",
    "unbiased_accuracy": "unbiased",
    "estimated_aligned_accuracy": "est.align.",
    "estimated_conflicting_accuracy": "est.confl.",
    "estimated_unbiased_accuracy": "est.unb.",
}


class NamedProgressCallback(TrainerCallback):
    """Losses, learning rate and accuracy of what `name` says is going on: a table with a row per evaluation, or of ten
    rows if nothing is evaluated; on a terminal with a progress bar below."""

    def __init__(self, name: str):
        self.name = name
        self.bar: tqdm | None = None
        self.training: dict[str, float] = {}
        self.evaluated: dict[str, float] = {}
        self.columns: list[tuple[str, str]] = []
        self.next_row: float = math.inf
        self.steps_between_rows = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if args.eval_strategy == "no":
            self.steps_between_rows = state.max_steps / 10
            self.next_row = state.global_step + self.steps_between_rows
        if not args.disable_tqdm and sys.stderr.isatty():
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.name, dynamic_ncols=True, leave=False
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.training = {key: value for key, value in logs.items() if key in _heading_of_training(logs)}
            if not self.evaluated and state.global_step >= self.next_row:
                self._print_row(state.global_step)
                self.next_row += self.steps_between_rows

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
        values = self.training | self.evaluated
        columns = [*_heading_of_training(self.training).items(), *_heading_of_metrics(self.evaluated).items()]
        cells = "".join(_cell(key, values[key]).rjust(_WIDTH) for key, _ in columns)
        lines = [] if self.columns else [self.name]
        lines += [] if columns == self.columns else [_header(columns)]
        self.columns = columns
        tqdm.write("\n".join([*lines, f"{step:>8}{cells}"]))  # above the bar, if there is one
        sys.stdout.flush()


def use_own_progress(trainer: Trainer) -> None:
    """Removes the Trainer's own bar (in a notebook, its table) and its printed logs, which a [`NamedProgressCallback`]
    replaces."""
    trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
    trainer.remove_callback(PrinterCallback)


def _heading_of_training(logs: dict[str, float]) -> dict[str, str]:
    """Column headings of what training logged, by key: learning rate, loss, then its terms if it has several."""
    headings = {"learning_rate": "lr", "loss": "loss"}
    terms = {key: key.removeprefix("loss_")[: _WIDTH - 1] for key in logs if key.startswith("loss_")}
    headings |= terms if len(terms) > 1 else {}
    return {key: heading for key, heading in headings.items() if key in logs}


def _heading_of_metrics(metrics: dict[str, float]) -> dict[str, str]:
    """Column headings of the accuracies that an evaluation has, by key: by split, then in the order of `_ACCURACIES`.

    A split without bias labels has its accuracy alone; metrics of weights that are not published have no column.
    """
    found: dict[str, str] = {}
    for split in _GROUPS:
        of_split = {f"{split}_{name}": heading for name, heading in _ACCURACIES.items()}
        known = {key: heading for key, heading in of_split.items() if key in metrics}
        if f"{split}_accuracy" in metrics and f"{split}_conflicting_accuracy" not in metrics:
            known = {f"{split}_accuracy": "accuracy", **known}
        found |= known
    members = {key: key.partition("_accuracy_")[2] for key in metrics if "_accuracy_member_" in key}
    return found | members


def _split_of(key: str) -> str:
    return next((split for split in _GROUPS if key.startswith(f"{split}_")), "")


def _header(columns: list[tuple[str, str]]) -> str:
    """Two lines: the splits, each over the first of its columns, then step and headings."""
    above, last = "", ""
    for key, _ in columns:
        group = "losses" if key.startswith("loss") else _split_of(key)
        above += (group if group != last else "").rjust(_WIDTH)
        last = group
    return f"{'':8}{above}".rstrip() + f"\n{'step':>8}" + "".join(text.rjust(_WIDTH) for _, text in columns)


def _cell(key: str, value: float) -> str:
    if key == "learning_rate":
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def results_table(results: dict[str, dict[str, float]], splits: Sequence[str] = ("validation", "test")) -> str:
    """A text table: one row per name and split, one column per metric that anyone has, in percent."""
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
