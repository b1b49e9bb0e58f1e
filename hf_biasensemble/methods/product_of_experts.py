"""Product of experts: the classifier is trained in combination with the members and published alone."""

import torch

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.trainers.member_prior import MemberPriorArguments, MemberPriorTrainer


class ProductOfExpertsTrainer(MemberPriorTrainer):
    """Product of experts (https://huggingface.co/papers/1909.03683): the prior is the log of the members' mean
    probabilities. Logs `loss_classification`."""

    def log_prior(self, index: torch.Tensor) -> torch.Tensor:
        return self.member_probabilities(index).clamp(min=0.001).log()  # so that no image dominates a batch


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
        "members' mean probabilities is added to the logits, so the classifier gains nothing from what they already "
        "know. It is published without them."
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
