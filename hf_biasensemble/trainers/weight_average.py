"""Moving average of a model's weights, which is evaluated and published instead of the last weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback


class WeightAverage(TrainerCallback):
    """Exponential moving average of all weights and BatchNorm statistics, updated after each step.

    The decay after t steps is `min(decay, (t + 1) / (t + 10))`, which soon forgets the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        self.steps = 0
        self.averaged = AveragedModel(model, use_buffers=True)

    @torch.no_grad()
    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        # Not `update_parameters`, which copies its counter to the device at every step.
        pairs = list(zip(_tensors(self.averaged.module), _tensors(self.model), strict=True))
        weights = [pair for pair in pairs if self.steps and torch.is_floating_point(pair[0])]
        copied = [pair for pair in pairs if not self.steps or not torch.is_floating_point(pair[0])]
        if weights:
            decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
            averaged, current = zip(*weights, strict=True)
            torch._foreach_lerp_(averaged, current, 1 - decay)
        if copied:
            averaged, current = zip(*copied, strict=True)
            torch._foreach_copy_(averaged, current)
        self.averaged.n_averaged += 1
        self.steps += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average and its number of steps, for a checkpoint."""
        return self.averaged.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a [`~WeightAverage.state_dict`]."""
        self.averaged.load_state_dict(state)
        self.steps = int(self.averaged.n_averaged)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """Weights and buffers, detached."""
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
