"""DisEnt whose bias encoder is trained on BiasEnsemble's bias-amplified set only."""

from dataclasses import replace

from hf_biasensemble.methods import disent
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE

METHOD = replace(
    disent.METHOD,
    name="disent_be",
    title="DisEnt + BiasEnsemble",
    selector=BIAS_ENSEMBLE,
    unused=frozenset({"generalized_cross_entropy_q"}),  # the members' own option
    baseline="disent",
    about=disent.about("that set alone"),
)
