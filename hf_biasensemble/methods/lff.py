"""Learning from Failure: samples that are hard for a biased model count more."""

import torch
from torch import nn

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.models.build import biased_and_debiased
from hf_biasensemble.trainers.relative_difficulty import RelativeDifficultyArguments, RelativeDifficultyTrainer


class LffTrainer(RelativeDifficultyTrainer):
    """LfF (https://huggingface.co/papers/2007.02561) or, given a selection, LfF + BiasEnsemble.

    Minimises the sum of two terms: the mean generalized cross entropy of the biased model f_B (given a selection, its
    mean cross entropy over the bias-amplified set) and the mean cross entropy of the debiased model f_D, weighted by
    relative difficulty. Logs `loss_biased` and `loss_debiased`.
    """

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        labels, index = batch["labels"], batch["index"]
        outputs = model(pixel_values=batch["pixel_values"])
        biased_loss = cross_entropy(outputs["biased_logits"], labels)
        debiased_loss = cross_entropy(outputs["logits"], labels)
        weight = self.weigh(index, biased_loss, debiased_loss)
        return {
            "biased": self.biased_term(outputs["biased_logits"], labels, index),
            "debiased": self.part.mean(weight * debiased_loss),
        }


_CITATION = """\
@inproceedings{nam2020learning,
  title     = {Learning from Failure: De-biasing Classifier from Biased Classifier},
  author    = {Nam, Junhyun and Cha, Hyuntak and Ahn, Sungsoo and Lee, Jaeho and Shin, Jinwoo},
  booktitle = {NeurIPS},
  year      = {2020}
}"""

EASY_IMAGES = "all images with a loss (generalized cross entropy) that emphasises the easy ones"


def about(biased_set: str) -> str:
    """Text of the model card; `biased_set` names the images that the biased network learns from."""
    return (
        "LfF ([Nam et al., 2020](https://huggingface.co/papers/2007.02561)): a biased and a debiased network are "
        f"trained together. The biased one learns from {biased_set}. The debiased one, which is published here, "
        "learns most from images that are harder for the biased one than for itself."
    )


METHOD = Method(
    name="lff",
    title="LfF",
    trainer=LffTrainer,
    arguments=RelativeDifficultyArguments,
    network=biased_and_debiased,
    unused=frozenset({"conflicting_share"}),
    baseline="erm",
    about=about(EASY_IMAGES),
    citations=(_CITATION,),
)
