"""DisEnt whose bias encoder learns from the bias-amplified set of BiasEnsemble alone."""

from dataclasses import replace

from hf_biasensemble.methods import disent
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE

METHOD = replace(
    disent.METHOD,
    name="disent_be",
    title="DisEnt + BiasEnsemble",
    selector=BIAS_ENSEMBLE,
    unused=frozenset({"generalized_cross_entropy_q"}),  # the members have one
    baseline="disent",
    about=disent.about("that set alone"),
)
