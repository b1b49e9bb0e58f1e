"""DisEnt whose bias encoder learns from the bias-amplified set of BiasEnsemble alone."""

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.methods import disent, lff
from hf_biasensemble.models.build import disentangled
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.trainers.disent import DisentArguments, DisentTrainer

METHOD = Method(
    name="disent_be",
    title="DisEnt + BiasEnsemble",
    trainer=DisentTrainer,
    arguments=DisentArguments,
    network=disentangled,
    selector=BIAS_ENSEMBLE,
    unused=frozenset({"generalized_cross_entropy_q"}),  # the members have one
    baseline="disent",
    about=disent.about("that set alone"),
    citations=(lff.CITATION, disent.CITATION),
)
