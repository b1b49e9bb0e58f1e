"""Which values of the bias attribute go with which class: by option, by equal names, or by the majority in training.

Numbers are never compared: if `blond` and `male` are both 0 or 1, nothing says that 1 goes with 1.
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
    """What is bias-aligned.

    Attributes:
        goes_with: bool (B, K), whether bias b is the shortcut of class k.
        bias_names: The B names.
        class_names: The K names.
        decided_by: "option", "names" or "majority".
    """

    goes_with: np.ndarray
    bias_names: Sequence[str]
    class_names: Sequence[str]
    decided_by: str

    def is_conflicting(self, labels: np.ndarray, bias_labels: np.ndarray) -> np.ndarray:
        """bool (N,), of int64 labels and bias labels (N,)."""
        return ~self.goes_with[bias_labels, labels]

    def pairs(self) -> list[str]:
        """The same as `--aligned_bias` takes it: `bias=class`, class by class."""
        return [
            f"{self.bias_names[bias]}={self.class_names[number]}" for number, bias in np.argwhere(self.goes_with.T)
        ]


def aligned_as_told(pairs: Sequence[str], bias_names: Sequence[str], class_names: Sequence[str]) -> Alignment:
    """What `--aligned_bias` says: pairs `bias=class`, in any order.

    Raises:
        `BiasEnsembleError`: If a pair is of another form or names what is not there, or a class is in no pair.
    """
    goes_with = np.zeros((len(bias_names), len(class_names)), dtype=bool)
    for pair in pairs:
        # A name may itself hold the sign.
        halves = [(pair[:place], pair[place + 1 :]) for place, sign in enumerate(pair) if sign == "="]
        known = [(bias, name) for bias, name in halves if bias in bias_names and name in class_names]
        if len(known) != 1:
            found = f"{pair}, which fits in {len(known)} ways" if known else _unknown(pair, halves, bias_names)
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
    """Each bias goes with the class of its name; `None` unless both lists hold the same names.

    Numbers, and answers such as yes and no, are not names: two columns may have them in common and mean other things.
    """
    nameless = all(name.lower() in _ANSWERS or name.lstrip("-").isdecimal() for name in class_names)
    if nameless or sorted(bias_names) != sorted(class_names):
        return None
    goes_with = np.array([[bias == name for name in class_names] for bias in bias_names])
    return Alignment(goes_with, bias_names, class_names, "names")


def aligned_by_majority(
    labels: np.ndarray, bias_labels: np.ndarray, bias_names: Sequence[str], class_names: Sequence[str]
) -> Alignment | None:
    """The most frequent bias of each class goes with it, by labels and bias labels (N,) of the training split.

    Prints what it found; `None` if several biases are equally frequent in a class.
    """
    count = np.zeros((len(bias_names), len(class_names)), dtype=np.int64)
    np.add.at(count, (bias_labels, labels), 1)
    goes_with = count == count.max(axis=0)
    undecided = np.flatnonzero(goes_with.sum(axis=0) > 1).tolist()
    if undecided:
        biases = [bias_names[bias] for bias in np.flatnonzero(goes_with[:, undecided[0]]).tolist()]
        print_once(
            f"cannot tell which images are bias-aligned: in train, class {class_names[undecided[0]]} has as many "
            f"images of {some_of(biases)}; say which bias goes with which class with --aligned_bias BIAS=CLASS ..."
        )
        return None
    majority = [f"{name}: {bias_names[bias]}" for name, bias in zip(class_names, count.argmax(axis=0), strict=True)]
    print_once(
        f"bias-aligned, by the majority of each class in train: {some_of(majority)}; say it with --aligned_bias"
    )
    return Alignment(goes_with, bias_names, class_names, "majority")


def _unknown(pair: str, halves: list[tuple[str, str]], bias_names: Sequence[str]) -> str:
    """What is wrong with a pair of which not both halves are known."""
    if not halves:
        return f"{pair} without ="
    bias, name = next((half for half in halves if half[0] in bias_names), halves[0])
    return f"the class {name} in {pair}" if bias in bias_names else f"the bias {bias} in {pair}"
