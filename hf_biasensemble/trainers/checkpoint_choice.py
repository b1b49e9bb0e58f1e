"""Which of the evaluated states of a model is published."""

import logging
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hf_biasensemble.arguments import CHECKPOINT_CHOICES, DebiasingArguments
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.reporting.progress import ORACLE_MARK

logger = logging.getLogger(__name__)

FILE_NAME = "published.safetensors"


class CheckpointChoice:
    """Keeps the weights of the evaluation with the highest value of one metric; of equal ones, the latest.

    Args:
        choice (`str`): A key of `CHECKPOINT_CHOICES`. With `"last"` nothing is kept: the last step is published.

    Attributes:
        step (`int`): Step of the kept weights, 0 before the first evaluation.
        score (`float`): Their value of the metric.
        weights (`dict[str, torch.Tensor]`): The state dict itself.
    """

    def __init__(self, choice: str):
        self.metric = CHECKPOINT_CHOICES[choice]
        self.step = 0
        self.score = -math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def consider(self, step: int, metrics: dict[str, float], model: nn.Module) -> None:
        """Takes the model's weights if its metrics are as good as any before."""
        if self.metric and metrics[self.metric] >= self.score:
            self.step, self.score = step, metrics[self.metric]
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def save(self, folder: str | Path) -> None:
        """Writes what is kept, if anything, into the folder of a checkpoint."""
        if self.weights:
            # safetensors refuses two names for the same memory and memory with gaps.
            weights = {name: value.contiguous() for name, value in self.weights.items()}
            save_file(weights, Path(folder) / FILE_NAME, {"step": str(self.step), "score": repr(self.score)})

    def load(self, folder: str | Path) -> None:
        """Restores what [`~CheckpointChoice.save`] wrote."""
        file = Path(folder) / FILE_NAME
        if self.metric and file.exists():
            with safe_open(file, framework="pt") as stored:
                self.step, self.score = int(stored.metadata()["step"]), float(stored.metadata()["score"])
                self.weights = {name: stored.get_tensor(name) for name in stored.keys()}


def check_checkpoint_choice(args: DebiasingArguments, splits: dict[str, ImageSplit]) -> None:
    """Refuses a `checkpoint_choice` that the data cannot make, and warns of one that looks at the test split."""
    metric = CHECKPOINT_CHOICES[args.checkpoint_choice]
    if metric is None:
        return
    name = f"--checkpoint_choice {args.checkpoint_choice}"
    split = splits.get(metric.split("_")[0])
    if split is None:
        raise BiasEnsembleError(
            f"{name}: expected a {metric.split('_')[0]} split, found {', '.join(splits)}; use last"
        )
    if args.eval_strategy == "no":
        raise BiasEnsembleError(f"{name}: expected evaluations to choose from, found --eval_strategy no; use last")
    conflicting = split.measured_by()["is_conflicting"]
    if metric.endswith("ac_score") and (conflicting is None or len(np.unique(conflicting)) < 2):
        raise BiasEnsembleError(
            f"{name}: expected a validation split with bias labels, some aligned and some conflicting, found "
            f"{'no bias labels' if conflicting is None else 'one kind only'}; use last"
        )
    if args.checkpoint_choice == "oracle_test" and args.should_save:
        logger.warning(
            "warning: --checkpoint_choice oracle_test publishes the step that is best on the test split; its test "
            "figures are too high and only compare with figures that were chosen the same way (%s)",
            ORACLE_MARK,
        )
