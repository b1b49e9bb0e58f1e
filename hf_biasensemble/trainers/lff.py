"""Learning from Failure, with or without the bias-amplified set of BiasEnsemble."""

import torch
from torch import nn

from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.trainers.relative_difficulty import RelativeDifficultyTrainer


class LffTrainer(RelativeDifficultyTrainer):
    """LfF (https://huggingface.co/papers/2007.02561), and LfF + BiasEnsemble when given a selection.

    Minimises the mean cross entropy of f_B over the batch's members of the bias-amplified set (without a selection:
    its generalized cross entropy over the batch) plus the weighted mean cross entropy of f_D over the whole batch.
    Logs `loss_biased` and `loss_debiased`.
    """

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        labels, index = batch["labels"], batch["index"]
        outputs = model(pixel_values=batch["pixel_values"])
        biased_loss = cross_entropy(outputs["biased_logits"], labels)
        debiased_loss = cross_entropy(outputs["logits"], labels)
        weight = self.weigh(index, biased_loss, debiased_loss)
        return {
            "biased": self.biased_term(outputs["biased_logits"], labels, self.in_amplified_set(index)),
            "debiased": self.part.mean(self.importance(index) * weight * debiased_loss),
        }
