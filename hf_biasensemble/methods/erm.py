"""Empirical risk minimisation: the baseline of all debiasing methods."""

import torch
from torch import nn

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.trainers.base import DebiasingTrainer


class ErmTrainer(DebiasingTrainer):
    """Minimises the mean cross entropy. Logs `loss_classification`."""

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits = model(pixel_values=batch["pixel_values"])["logits"]
        return {"classification": self.part.mean(cross_entropy(logits, batch["labels"]))}


METHOD = Method(
    name="erm",
    title="ERM",
    trainer=ErmTrainer,
    network=classifier_alone,
    purpose="the ordinary way, as the baseline that debiasing methods are compared with",
    about=(
        "Empirical risk minimisation: one network, trained with cross entropy on equally weighted images. Nothing "
        "keeps it from using a shortcut."
    ),
)
