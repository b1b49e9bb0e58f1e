"""Which split of a dataset serves for what: by its usual name, or as named."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hf_biasensemble.data.reading.files import images
from hf_biasensemble.data.reading.names import SplitNames
from hf_biasensemble.data.reading.split_words import meant_by, use_of
from hf_biasensemble.internal.errors import BiasEnsembleError


def chosen_splits(raw: Mapping[str, Any], names: SplitNames, where: str) -> tuple[dict[str, str], list[str]]:
    """The names of the splits of `raw` that are for training, validation and testing, as far as they are there, and
    what to say of those that are for nothing.

    A split that was named on purpose serves for nothing else: with `test="validation"`, there is no validation split.

    Raises:
        `BiasEnsembleError`: If a split that was named is not there, or named twice, or no split is left, or two have
            names of the same meaning.
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
        free = [split for split in raw if split not in named.values()]
        alike = [split for split in free if use_of(split) == use] or [s for s in free if meant_by(s) == use]
        if use in named:
            chosen[use] = name
        elif use in alike or len(alike) == 1:
            chosen[use] = use if use in alike else alike[0]
        elif alike:
            raise BiasEnsembleError(
                f"{where}: expected one split for {use}, found {', '.join(alike)}; say which with --{use}_split "
                f"{alike[0]}, or --{use}_split {alike[1]}"
            )
    if not chosen:
        raise BiasEnsembleError(
            f"{where}: expected a split train, validation or test, found {', '.join(raw)}; name them with "
            "--train_split, --validation_split and --test_split, or leave the column alone with --split_column none"
        )
    notes = [
        f"not used: the split {split} ({images(len(raw[split]))}); use it with --test_split {split}"
        for split in raw
        if split not in chosen.values()
    ]
    return chosen, notes


def unlabelled_test(splits: Mapping[str, Any], label_column: str) -> bool:
    """Whether the test split (`datasets.Dataset`) says -1 or nothing for every image."""
    test = splits.get("test")
    if test is None or len(splits) == 1 or len(test) == 0:
        return False
    if label_column not in test.column_names:
        return any(label_column in data.column_names for data in splits.values())
    return not any(label not in (-1, "-1", None) for label in test.with_format(None).unique(label_column))
