"""What a person sees while a run goes on, and the table at its end."""

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hf_biasensemble.metrics.accuracy import METRICS

ORACLE_MARK = "oracle, chosen on the test set"


class NamedProgressCallback(TrainerCallback):
    """A progress bar with a name, and one line per evaluation.

    Args:
        name (`str`): What is going on, for instance `"BiasEnsemble members"`.
    """

    def __init__(self, name: str):
        self.name = name
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and not args.disable_tqdm:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and metrics:
            line = f"{self.name}, step {state.global_step}: " + "  ".join(
                f"{key.replace('_', ' ')} {value:.3f}" for key, value in metrics.items() if _worth_a_line(key)
            )
            tqdm.write(line) if self.bar is not None else print(line, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def use_own_progress(trainer: Trainer) -> None:
    """Takes the Trainer's own bar and its printed logs away, where a [`NamedProgressCallback`] stands in for them."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)


def _worth_a_line(key: str) -> bool:
    if key.startswith("raw_"):
        return False
    return key.endswith(("aligned_accuracy", "conflicting_accuracy", "unbiased_accuracy")) or "member" in key


def results_table(results: dict[str, dict[str, float]], splits: Sequence[str] = ("validation", "test")) -> str:
    """A text table: one row per name and split, one column per metric that anyone has, in percent."""
    rows = {
        f"{name} {split}".strip(): {
            metric: values[f"{split}_{metric}"] for metric in METRICS if f"{split}_{metric}" in values
        }
        for name, values in results.items()
        for split in splits
    }
    rows = {name: row for name, row in rows.items() if row}
    columns = [metric for metric in METRICS if any(metric in row for row in rows.values())]
    width = max([len(name) for name in rows], default=0)
    headers = [metric.removesuffix("_accuracy").replace("_", " ") for metric in columns]
    lines = [" " * width + "".join(f"{header:>13}" for header in headers)]
    for name, row in rows.items():
        cells = [f"{100 * row[metric]:13.1f}" if metric in row else f"{'-':>13}" for metric in columns]
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(lines)
