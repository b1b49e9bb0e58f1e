"""Which of the evaluated states of a model is published."""

import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hf_biasensemble.arguments import CHECKPOINT_CHOICES

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
