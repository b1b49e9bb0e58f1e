"""LfF whose biased model is trained on BiasEnsemble's bias-amplified set only."""

from dataclasses import replace

from hf_biasensemble.methods import lff
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE

METHOD = replace(
    lff.METHOD,
    name="lff_be",
    title="LfF + BiasEnsemble",
    selector=BIAS_ENSEMBLE,
    unused=frozenset({"generalized_cross_entropy_q"}),  # the members' own option
    baseline="lff",
    about=lff.about("that set alone"),
)
