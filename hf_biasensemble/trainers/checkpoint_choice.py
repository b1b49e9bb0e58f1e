"""Chooses which evaluated step of a model to publish."""

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

_OWN_WEIGHT = 2
"""Weight of an evaluation relative to its neighbours. With 1, a bad step between two good ones would look good."""


class CheckpointChoice:
    """Keeps the weights of the evaluation with the highest score, the latest of equals. `"last"` keeps nothing.

    The score is a metric. For `"estimated"`, which is measured on few images, it is the mean over an evaluation
    (counted twice), the one before and the one after; [`~CheckpointChoice.settle`] scores the last evaluation.
    """

    def __init__(self, name: str):
        self.name = name
        self.metric = CHECKPOINT_CHOICES[name]
        self.step = 0
        self.score = -math.inf
        self.weights: dict[str, torch.Tensor] = {}
        self.scores: list[float] = []  # of the last three evaluations
        self.waiting: dict[str, torch.Tensor] = {}  # weights of the last evaluation, which has no score yet
        self.waiting_step = 0

    def consider(self, step: int, metrics: dict[str, float], model: nn.Module) -> None:
        """Keeps the model's weights if no earlier evaluation has a higher score."""
        if not self.metric:
            return
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if self.name != "estimated":
            self._keep(step, metrics[self.metric], weights)
            return
        self.scores = [*self.scores, metrics[self.metric]][-3:]
        if self.waiting:
            *before, own, after = self.scores
            self._keep(self.waiting_step, _smoothed(own, [*before, after]), self.waiting)
        self.waiting, self.waiting_step = weights, step

    def settle(self) -> None:
        """Scores the last evaluation without a successor."""
        if self.waiting:
            *before, own = self.scores[-2:]
            self._keep(self.waiting_step, _smoothed(own, before), self.waiting)
            self.waiting = {}

    def _keep(self, step: int, score: float, weights: dict[str, torch.Tensor]) -> None:
        if score >= self.score:
            self.step, self.score, self.weights = step, score, weights

    def state_dict(self) -> dict[str, torch.Tensor]:
        """State for a checkpoint; empty before the first evaluation."""
        state = {f"kept.{name}": value for name, value in self.weights.items()}
        state |= {f"waiting.{name}": value for name, value in self.waiting.items()}
        if state:
            figures = [self.step, self.waiting_step, self.score, *self.scores]
            state["figures"] = torch.tensor(figures, dtype=torch.float64)
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a [`~CheckpointChoice.state_dict`]."""
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
    """Raises `BiasEnsembleError` if the data does not support the choice; warns if it uses the test split."""
    metric = CHECKPOINT_CHOICES[args.checkpoint_choice]
    if metric is None:
        return
    name, split_name = f"--checkpoint_choice {args.checkpoint_choice}", metric.split("_")[0]
    split = splits.get(split_name)
    if split is None:
        raise BiasEnsembleError(f"{name}: expected a {split_name} split, found {', '.join(splits)}; use last")
    if args.eval_strategy == "no":
        raise BiasEnsembleError(f"{name}: expected evaluations to choose from, found --eval_strategy no; use last")
    if args.checkpoint_choice == "estimated" and not has_members:
        raise BiasEnsembleError(
            f"{name}: expected BiasEnsemble members, found none with --method {args.method}; name a run that has some "
            "with --judge RUN"
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
            "accuracy is too high and only comparable to results chosen in the same way (%s)",
            ORACLE_MARK,
        )
