"""The moving average of a model's weights over the steps, to be evaluated and published in place of the last ones."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback

FILE_NAME = "weight_average.safetensors"


class WeightAverage(TrainerCallback):
    """Exponential moving average of all weights, and of BatchNorm's statistics, taken after each step.

    After t steps the decay is `min(decay, (t + 1) / (t + 10))`, so that the random start is soon forgotten.

    Args:
        model (`nn.Module`): The model whose weights are averaged.
        decay (`float`): Share of the old average, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        self.steps = 0
        self.averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)

    def _average(self, averaged: Any, current: Any, _: object) -> None:
        if torch.is_floating_point(averaged[0]):
            decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # counters
            torch._foreach_copy_(averaged, current)

    @torch.no_grad()
    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self.averaged.update_parameters(self.model)
        self.steps += 1

    def save(self, folder: str | Path) -> None:
        """Writes the average into the folder of a checkpoint."""
        save_file(self.averaged.state_dict(), Path(folder) / FILE_NAME)

    def load(self, folder: str | Path) -> None:
        """Restores what [`~WeightAverage.save`] wrote."""
        self.averaged.load_state_dict(load_file(Path(folder) / FILE_NAME))
        self.steps = int(self.averaged.n_averaged)
