"""The moving average of a model's weights over the steps, to be evaluated and published in place of the last ones."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback


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
        self.averaged = AveragedModel(model, use_buffers=True)

    @torch.no_grad()
    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        # `update_parameters` would copy its counter to the device at every step.
        pairs = list(zip(_tensors(self.averaged.module), _tensors(self.model), strict=True))
        weights = [pair for pair in pairs if self.steps and torch.is_floating_point(pair[0])]
        copied = [pair for pair in pairs if not self.steps or not torch.is_floating_point(pair[0])]  # and counters
        if weights:
            decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
            torch._foreach_lerp_(*_columns(weights), 1 - decay)
        if copied:
            torch._foreach_copy_(*_columns(copied))
        self.averaged.n_averaged += 1
        self.steps += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold: the average and its number of steps."""
        return self.averaged.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~WeightAverage.state_dict`] gave."""
        self.averaged.load_state_dict(state)
        self.steps = int(self.averaged.n_averaged)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """Weights and buffers, without their gradients."""
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def _columns(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """All that are first, and all that are second."""
    return [first for first, _ in pairs], [second for _, second in pairs]
