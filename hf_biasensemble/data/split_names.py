"""Which split of a dataset serves for what: by its usual name, or as named."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from hf_biasensemble.data.sources import SPLIT_ALIASES
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once

T = TypeVar("T")


@dataclass(frozen=True)
class SplitNames:
    """Names of the splits in the dataset at hand. A usual name also stands for its other forms, such as `val`."""

    train: str = "train"
    validation: str = "validation"
    test: str = "test"


def chosen_splits(raw: Mapping[str, T], names: SplitNames, where: str) -> dict[str, T]:
    """The splits of `raw` that are for training, validation and testing, as far as they are there.

    A split that was named on purpose serves for nothing else: with `test="validation"`, there is no validation split.

    Raises:
        `BiasEnsembleError`: If a split that was named is not there, or named twice, or no split is left.
    """
    asked = asdict(names)
    named = {use: name for use, name in asked.items() if name != use}
    options = ", ".join(f"--{use}_split" for use in named)
    for use, name in named.items():
        if name not in raw:
            raise BiasEnsembleError(
                f"{where}: expected the split {name!r} given by --{use}_split, found {', '.join(raw)}; name one of "
                "these"
            )
    if len(set(named.values())) < len(named):
        raise BiasEnsembleError(f"{where}: expected different splits for {options}, found {', '.join(named.values())}")
    chosen = {}
    for use, name in asked.items():
        others = [alias for alias, usual in SPLIT_ALIASES.items() if usual == use]
        usual_names = [form for form in (use, *others) if form in raw and form not in named.values()]
        if use in named or usual_names:
            chosen[use] = raw[name if use in named else usual_names[0]]
    if not chosen:
        raise BiasEnsembleError(
            f"{where}: expected a split train, validation or test, found {', '.join(raw)}; name them with "
            "--train_split, --validation_split and --test_split"
        )
    return chosen


def without_unlabelled_test(splits: dict[str, Any], label_column: str, where: str) -> dict[str, Any]:
    """Leaves out a test split (`datasets.Dataset`) that says -1 or nothing for every image, and says so."""
    test = splits.get("test")
    if test is None or len(splits) == 1 or label_column not in test.column_names or len(test) == 0:
        return splits
    if any(label not in (-1, None) for label in test.with_format(None).unique(label_column)):
        return splits
    print_once(f"{where}: the test split is left out, since it has no labels ({len(test):,} images)")
    return {use: data for use, data in splits.items() if use != "test"}
