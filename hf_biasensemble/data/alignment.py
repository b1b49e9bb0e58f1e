"""Decides which bias goes with which class: by option, by equal names, or by the majority in training.

Equal numbers mean nothing: if `blond` and `male` are both 0 or 1, 1 need not go with 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_biasensemble.data.reading.files import some_of
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once

_ANSWERS = {"no", "yes", "n", "y", "false", "true", "f", "t", "off", "on"}


@dataclass(frozen=True)
class Alignment:
    """The pairs of bias and class that are bias-aligned."""

    goes_with: np.ndarray  # bool (B, K), whether bias b is the shortcut of class k
    bias_names: Sequence[str]
    class_names: Sequence[str]
    decided_by: str  # "option", "names" or "majority"

    def is_conflicting(self, labels: np.ndarray, bias_labels: np.ndarray) -> np.ndarray:
        """Whether samples are bias-conflicting, bool (N,), by labels and bias labels (N,); false if that is -1."""
        return ~self.goes_with[bias_labels, labels] & (bias_labels >= 0)

    def pairs(self) -> list[str]:
        """The pairs as `--aligned_bias` takes them, `bias=class`, ordered by class."""
        return [
            f"{self.bias_names[bias]}={self.class_names[number]}" for number, bias in np.argwhere(self.goes_with.T)
        ]


def aligned_by_option(pairs: Sequence[str], bias_names: Sequence[str], class_names: Sequence[str]) -> Alignment:
    """The pairs `bias=class` of `--aligned_bias`, in any order; refuses unknown names and classes without a pair."""
    goes_with = np.zeros((len(bias_names), len(class_names)), dtype=bool)
    for pair in pairs:
        # A name may contain the sign.
        halves = [(pair[:place], pair[place + 1 :]) for place, sign in enumerate(pair) if sign == "="]
        known = [(bias, name) for bias, name in halves if bias in bias_names and name in class_names]
        if len(known) != 1:
            found = f"{pair}, which can be read in {len(known)} ways" if known else f"{pair} without ="
            if halves and not known:
                bias, name = next((half for half in halves if half[0] in bias_names), halves[0])
                found = f"the class {name} in {pair}" if bias in bias_names else f"the bias {bias} in {pair}"
            raise BiasEnsembleError(
                f"--aligned_bias: expected pairs BIAS=CLASS with a bias out of {some_of(bias_names)} and a class "
                f"out of {some_of(class_names)}, found {found}; correct the pair"
            )
        bias, name = known[0]
        goes_with[list(bias_names).index(bias), list(class_names).index(name)] = True
    absent = [class_names[number] for number in np.flatnonzero(~goes_with.any(axis=0)).tolist()]
    if absent:
        raise BiasEnsembleError(
            f"--aligned_bias: expected a bias for every class, found none for {some_of(absent)}; add BIAS={absent[0]} "
            f"with a bias out of {some_of(bias_names)}"
        )
    return Alignment(goes_with, bias_names, class_names, "option")


def aligned_by_names(bias_names: Sequence[str], class_names: Sequence[str]) -> Alignment | None:
    """Pairs each bias with the class of the same name; `None` unless both have the same names.

    Numbers, and answers such as yes and no, do not count as names: they mean different things in different columns.
    """
    nameless = all(name.lower() in _ANSWERS or name.lstrip("-").isdecimal() for name in class_names)
    if nameless or sorted(bias_names) != sorted(class_names):
        return None
    goes_with = np.array([[bias == name for name in class_names] for bias in bias_names])
    return Alignment(goes_with, bias_names, class_names, "names")


def aligned_by_majority(
    labels: np.ndarray, bias_labels: np.ndarray, bias_names: Sequence[str], class_names: Sequence[str]
) -> Alignment | None:
    """Pairs each class with its most frequent bias in training, by labels and bias labels (N,), and prints the pairs.

    Returns `None` if several biases are equally frequent in a class.
    """
    count = np.zeros((len(bias_names), len(class_names)), dtype=np.int64)
    np.add.at(count, (bias_labels, labels), 1)
    goes_with = count == count.max(axis=0)
    undecided = np.flatnonzero(goes_with.sum(axis=0) > 1).tolist()
    if undecided:
        biases = [bias_names[bias] for bias in np.flatnonzero(goes_with[:, undecided[0]]).tolist()]
        print_once(
            f"cannot tell which images are bias-aligned: in train, class {class_names[undecided[0]]} has as many "
            f"images of {some_of(biases)}; set the bias of each class with --aligned_bias BIAS=CLASS ..."
        )
        return None
    majority = [f"{name}: {bias_names[bias]}" for name, bias in zip(class_names, count.argmax(axis=0), strict=True)]
    print_once(
        f"bias-aligned, by the majority of each class in train: {some_of(majority)}; say it with --aligned_bias"
    )
    return Alignment(goes_with, bias_names, class_names, "majority")
