"""Deep feature reweighting on pseudo-groups: retrains the head of an ERM classifier on balanced batches."""

from typing import Any

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.methods.erm import ErmTrainer
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.trainers.pseudo_groups import PseudoGroupArguments, PseudoGroupTrainer


class LastLayerTrainer(PseudoGroupTrainer, ErmTrainer):
    """Last layer retraining (https://arxiv.org/abs/2204.02937) on balanced pseudo-groups. The encoder is frozen,
    including batch normalisation. Logs `loss_classification`."""

    def __init__(self, model: DebiasedImageClassifier, *args: Any, **kwargs: Any):
        for encoder in model.encoders():
            encoder.requires_grad_(False)
        super().__init__(model, *args, **kwargs)


METHOD = Method(
    name="last_layer_be",
    title="Last layer on pseudo-groups",
    trainer=LastLayerTrainer,
    arguments=PseudoGroupArguments,
    network=classifier_alone,
    selector=BIAS_ENSEMBLE,
    needs_set=False,
    baseline="erm",
    starts_from="erm",
    about=(
        "Deep feature reweighting ([Kirichenko et al., 2023](https://huggingface.co/papers/2204.02937)) without group "
        "labels: the last layer of an ordinary classifier is retrained on balanced groups of class and votes "
        "(`pseudo_groups: {pseudo_groups}`). All other layers are unchanged."
    ),
    citations=(
        """\
@inproceedings{kirichenko2023last,
  title     = {Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations},
  author    = {Kirichenko, Polina and Izmailov, Pavel and Wilson, Andrew Gordon},
  booktitle = {ICLR},
  year      = {2023}
}""",
    ),
)
