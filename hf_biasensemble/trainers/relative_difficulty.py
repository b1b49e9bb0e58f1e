"""The base of LfF and DisEnt: samples are weighted by their relative difficulty."""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils.data import Sampler

from hf_biasensemble.arguments import DebiasingArguments, option
from hf_biasensemble.arguments.options import Fraction, PositiveFraction
from hf_biasensemble.data.batches.sampling import ConflictingShareSampler
from hf_biasensemble.evaluation.difficulty import DIFFICULTIES, mean_difficulty
from hf_biasensemble.losses.objectives import biased_objective, importance_weights, relative_difficulty
from hf_biasensemble.losses.sample_losses import SampleLosses
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.base import DebiasingTrainer

logger = logging.getLogger(__name__)


@dataclass
class RelativeDifficultyArguments(DebiasingArguments):
    """Options of LfF and DisEnt."""

    _argument_group_name: ClassVar[str] = "method: relative difficulty"

    loss_average_decay: Fraction = option(
        0.7, "Decay of the per-sample moving averages of the losses, in [0, 1); the authors' --ema_alpha."
    )
    generalized_cross_entropy_q: PositiveFraction = option(
        0.7, "Exponent of the biased model's generalized cross entropy, in (0, 1]; equation 1 of LfF."
    )
    conflicting_share: Fraction = option(
        0.0,
        "Draw this fraction of each batch, in [0, 1), from outside the bias-amplified set, and weight the losses so "
        "that their expected value does not change.",
    )


class RelativeDifficultyTrainer(DebiasingTrainer):
    """Weights the debiased model's samples by how much harder the biased model finds them.

    LfF and DisEnt, its subclasses, differ only in their networks and loss terms.

    Args:
        selection (`Selection`, *optional*): Bias-amplified set of BiasEnsemble. Without it, the biased model is
            trained on all samples with the generalized cross entropy.
    """

    def __init__(self, *args: Any, selection: Selection | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        split, decay, device = self.train_dataset, self.args.loss_average_decay, self.args.device
        self.sample_losses = SampleLosses(split.labels, len(split.class_names), decay=decay, device=device)
        self.amplified_set: torch.Tensor | None = None
        self.share_sampler: ConflictingShareSampler | None = None
        if selection is not None:
            mask = torch.from_numpy(selection.mask(len(split.labels)))
            self.amplified_set = mask.to(device)  # (N,)
            self.group_samples(mask, num_groups=2)
            if share := self.args.conflicting_share:
                self.share_sampler = ConflictingShareSampler(mask[split.rows], share, self.args.seed)
                if self.args.augmentation == "none" and self.args.should_save:
                    logger.warning(
                        "warning: --conflicting_share without --augmentation: the few samples outside the "
                        "bias-amplified set are drawn often and memorised; choose an augmentation that fits the images"
                    )

    def weigh(self, index: torch.Tensor, biased_loss: torch.Tensor, debiased_loss: torch.Tensor) -> torch.Tensor:
        """Updates the moving averages with the losses of all processes and weights the samples of the debiased model.

        Args:
            index (`torch.Tensor` of shape (B,), int64): Rows of the training split.
            biased_loss (`torch.Tensor` of shape (B,)): Per-sample losses of the biased model.
            debiased_loss (`torch.Tensor` of shape (B,)): Per-sample losses of the debiased model.

        Returns:
            `torch.Tensor` of shape (B,): The relative difficulty, multiplied by importance weights that compensate for
            `conflicting_share`.
        """
        losses = torch.stack([biased_loss, debiased_loss], dim=1).detach()
        self.sample_losses.update(self.part.gather(index), self.part.gather(losses))
        biased, debiased = self.sample_losses.scaled(index).unbind(dim=1)
        weights, sampler = relative_difficulty(biased, debiased), self.share_sampler
        if sampler is None or self.amplified_set is None:
            return weights
        in_set, num_outside = self.amplified_set[index], len(sampler.outside)
        return importance_weights(in_set, sampler.share, sampler.num_samples, num_outside) * weights

    def training_measures(self) -> dict[str, float]:
        """Means of relative difficulty and scaled losses over the training samples seen so far, separately for
        bias-aligned and bias-conflicting ones if bias labels exist: `train_{key}` for the keys of [`mean_difficulty`].
        """
        index = self.sample_losses.seen.nonzero().flatten()
        biased, debiased = self.sample_losses.scaled(index).unbind(dim=1)
        values = torch.stack([relative_difficulty(biased, debiased), biased, debiased]).cpu().numpy()
        conflicting = self.train_dataset.is_conflicting
        groups = None if conflicting is None else conflicting[index.cpu().numpy()]
        means = mean_difficulty(dict(zip(DIFFICULTIES, values, strict=True)), groups)
        return {f"train_{key}": value for key, value in means.items()}

    def train_sampler(self) -> Sampler | None:
        return self.share_sampler

    def biased_term(self, logits: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Loss of the biased model on logits (B, K) of training samples (B,): the mean cross entropy of those in the
        bias-amplified set or, without BiasEnsemble, the mean generalized cross entropy of all."""
        in_amplified_set = None if self.amplified_set is None else self.amplified_set[index]
        q = self.args.generalized_cross_entropy_q
        return biased_objective(logits, labels, in_amplified_set, q, self.part.mean)

    def method_state(self) -> dict[str, torch.Tensor]:
        return self.sample_losses.state_dict()

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        self.sample_losses.load_state_dict(state)

    def classifier(self) -> DebiasedImageClassifier:
        return self.accelerator.unwrap_model(self.model).debiased
