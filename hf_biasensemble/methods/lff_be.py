"""LfF whose biased model learns from the bias-amplified set of BiasEnsemble alone."""

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.methods import lff
from hf_biasensemble.models.build import biased_and_debiased
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.trainers.lff import LffTrainer
from hf_biasensemble.trainers.relative_difficulty import RelativeDifficultyArguments

METHOD = Method(
    name="lff_be",
    title="LfF + BiasEnsemble",
    trainer=LffTrainer,
    arguments=RelativeDifficultyArguments,
    network=biased_and_debiased,
    selector=BIAS_ENSEMBLE,
    unused=frozenset({"generalized_cross_entropy_q"}),  # the members have one
    baseline="lff",
    about=lff.about("that set alone"),
    citations=(lff.CITATION,),
)
