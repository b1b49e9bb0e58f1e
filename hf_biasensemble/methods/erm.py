"""Empirical risk minimisation: the ordinary classifier that debiasing is measured against."""

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.trainers.erm import ErmTrainer

METHOD = Method(
    name="erm",
    title="ERM",
    trainer=ErmTrainer,
    network=classifier_alone,
    purpose="the ordinary way, as the baseline that debiasing methods are compared with",
    about=(
        "Empirical risk minimisation: one network, cross entropy, every image counts the same. Nothing keeps it from "
        "a shortcut."
    ),
)
