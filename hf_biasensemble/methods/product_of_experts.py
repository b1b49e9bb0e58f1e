"""Product of experts: the classifier is trained together with the members, and published without them."""

import torch

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.trainers.member_prior import MemberPriorArguments, MemberPriorTrainer

LOWEST_PROBABILITY = 0.001
"""What members give a class at least, so that no image outweighs a batch."""


class ProductOfExpertsTrainer(MemberPriorTrainer):
    """Adds the log of the members' mean probabilities (https://huggingface.co/papers/1909.03683)."""

    def log_prior(self, index: torch.Tensor) -> torch.Tensor:
        return self.member_probabilities(index).clamp(min=LOWEST_PROBABILITY).log()


METHOD = Method(
    name="product_of_experts",
    title="Product of experts",
    trainer=ProductOfExpertsTrainer,
    arguments=MemberPriorArguments,
    network=classifier_alone,
    selector=BIAS_ENSEMBLE,
    needs_set=False,
    baseline="erm",
    about=(
        "Product of experts ([Hinton, 2002](https://doi.org/10.1162/089976602760128018); [Clark et al., "
        "2019](https://huggingface.co/papers/1909.03683)): in training, {adjustment_tau} times the log of the "
        "members' mean probabilities is added to the logits, so that the classifier gains nothing from what they know "
        "already. It is published alone."
    ),
    citations=(
        """\
@inproceedings{clark2019dont,
  title     = {Don't Take the Easy Way Out: Ensemble Based Methods for Avoiding Known Dataset Biases},
  author    = {Clark, Christopher and Yatskar, Mark and Zettlemoyer, Luke},
  booktitle = {EMNLP-IJCNLP},
  year      = {2019}
}""",
    ),
)
