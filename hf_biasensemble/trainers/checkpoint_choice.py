"""Which of the evaluated states of a model is published."""

import logging
import math

import numpy as np
import torch
from torch import nn

from hf_biasensemble.arguments import CHECKPOINT_CHOICES, DebiasingArguments
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.reporting.run.progress import ORACLE_MARK

logger = logging.getLogger(__name__)

_SMOOTHED = {"estimated"}
"""Choices whose score is a mean over neighbouring evaluations, since each is measured on few images."""
_OWN_WEIGHT = 2
"""Weight of an evaluation among its neighbours: with equal weights, a bad step between two good ones looks good."""


class CheckpointChoice:
    """Keeps the weights of the evaluation with the highest score; of equal ones, the latest.

    The score is the value of one metric or, with `"estimated"`, its mean over an evaluation, which counts twice, and
    those before and after it. Then the last evaluation is a candidate only once [`~CheckpointChoice.settle`] says that
    no other follows.

    Args:
        name (`str`): A key of `CHECKPOINT_CHOICES`. With `"last"` nothing is kept: the last step is published.

    Attributes:
        step (`int`): Step of the kept weights, 0 before there are any.
        score (`float`): Their score.
        weights (`dict[str, torch.Tensor]`): The state dict itself.
        scores (`list[float]`): The metric at the last evaluations, as many as are still needed.
        waiting (`dict[str, torch.Tensor]`): Weights of the last evaluation, which has no score yet.
    """

    def __init__(self, name: str):
        self.name = name
        self.metric = CHECKPOINT_CHOICES[name]
        self.is_smoothed = name in _SMOOTHED
        self.step = 0
        self.score = -math.inf
        self.weights: dict[str, torch.Tensor] = {}
        self.scores: list[float] = []
        self.waiting: dict[str, torch.Tensor] = {}
        self.waiting_step = 0

    def consider(self, step: int, metrics: dict[str, float], model: nn.Module) -> None:
        """Takes the model's weights if no evaluation before has a higher score."""
        if not self.metric:
            return
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if not self.is_smoothed:
            self._keep(step, metrics[self.metric], weights)
            return
        self.scores = [*self.scores, metrics[self.metric]][-3:]
        if self.waiting:
            *before, own, after = self.scores
            self._keep(self.waiting_step, _smoothed(own, [*before, after]), self.waiting)
        self.waiting, self.waiting_step = weights, step

    def settle(self) -> None:
        """No evaluation follows: the last one has its score from itself and the one before."""
        if self.waiting:
            *before, own = self.scores[-2:]
            self._keep(self.waiting_step, _smoothed(own, before), self.waiting)
            self.waiting = {}

    def _keep(self, step: int, score: float, weights: dict[str, torch.Tensor]) -> None:
        if score >= self.score:
            self.step, self.score, self.weights = step, score, weights

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold; empty before the first evaluation."""
        state = {f"kept.{name}": value for name, value in self.weights.items()}
        state |= {f"waiting.{name}": value for name, value in self.waiting.items()}
        if state:
            figures = [self.step, self.waiting_step, self.score, *self.scores]
            state["figures"] = torch.tensor(figures, dtype=torch.float64)
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~CheckpointChoice.state_dict`] gave."""
        if self.metric:
            step, waiting_step, self.score, *self.scores = state["figures"].tolist()
            self.step, self.waiting_step = int(step), int(waiting_step)
            self.weights, self.waiting = (
                {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
                for part in ("kept.", "waiting.")
            )


def _smoothed(own: float, neighbours: list[float]) -> float:
    return (_OWN_WEIGHT * own + sum(neighbours)) / (_OWN_WEIGHT + len(neighbours))


def check_checkpoint_choice(args: DebiasingArguments, splits: dict[str, ImageSplit], has_members: bool = True) -> None:
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
    if args.checkpoint_choice == "estimated" and not has_members:
        raise BiasEnsembleError(
            f"{name}: expected members of BiasEnsemble to judge by, found none with --method {args.method}; name a "
            "run that has some with --judge RUN"
        )
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
