"""LfF whose biased model learns from the bias-amplified set of BiasEnsemble alone."""

from dataclasses import replace

from hf_biasensemble.methods import lff
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE

METHOD = replace(
    lff.METHOD,
    name="lff_be",
    title="LfF + BiasEnsemble",
    selector=BIAS_ENSEMBLE,
    unused=frozenset({"generalized_cross_entropy_q"}),  # the members have one
    baseline="lff",
    about=lff.about("that set alone"),
)
