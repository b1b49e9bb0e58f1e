"""Names that mean a split (`train`, `Training`, `val`, `seg_train`), and which of those there are is for what."""

import re
from collections.abc import Mapping
from typing import Any

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import images
from hf_biasensemble.internal.errors import BiasEnsembleError

USES = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev", "valset"),
    "test": ("test", "testing", "eval", "evaluation", "testset"),
}
_USE_OF = {word: use for use, words in USES.items() for word in words}
_NUMBERS = {"0": "train", "1": "validation", "2": "test"}
_UNLABELLED = {"pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup", "unsupervised"}

NO_SPLITS, FROM_PATHS = "none", "paths"
"""What `--split_column` takes besides the name of a column."""


def use_of(name: str) -> str | None:
    """`train`, `validation` or `test` for a name that means that split, whatever its case; else `None`."""
    return _USE_OF.get(name.strip().lower())


def use_of_value(value: str) -> str | None:
    """The same for a value in a column of splits, where 0, 1, 2 are train, validation, test as in WILDS."""
    return use_of(value) or _NUMBERS.get(value.strip().removesuffix(".0"))


def with_affix(name: str) -> tuple[str, str] | None:
    """The split in a longer name, and the rest of it: train and `seg` for `seg_train`; `None` if it has none.

    `test-tube` is test and `tube` here: only its content tells whether a folder is a split.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", name).lower()  # TrainingSet, train2017
    words = [word for word in re.split(r"[^a-z]+", spaced) if word]
    for place in (0, len(words) - 1):
        if len(words) > 1 or words and not name.isalpha():
            use = _USE_OF.get(words[place])
            if use:
                return use, " ".join(words[:place] + words[place + 1 :])
    return None


def meant_by(name: str) -> str | None:
    """The split that a name means, alone or with another word."""
    found = with_affix(name)
    return use_of(name) or (found[0] if found else None)


def is_unlabelled(name: str) -> bool:
    """Whether a name says that these images have no labels: `seg_pred`, `unlabeled`."""
    return bool(_UNLABELLED & set(re.split(r"[^a-z]+", name.lower())))


def is_mark(column: str) -> bool:
    """Whether a column, by its name, marks the images of one split: `is_train`."""
    return use_of(re.sub(r"^(is|in)_", "", column.lower())) is not None


def split_names(args: DataArguments) -> list[str]:
    """The names that the splits for training, validation and testing have in this dataset."""
    return [getattr(args, f"{use}_split") for use in USES]


def split_column(names: list[str], asked: str | None) -> str:
    """The column of splits: the one that was asked for, or the one called `split` in any case."""
    return asked or next((name for name in names if name.lower() == "split"), "split")


def chosen_splits(raw: Mapping[str, Any], args: DataArguments) -> tuple[dict[str, str], list[str]]:
    """The names of the splits of `raw` to train, validate and test on, where they exist, and notes about the others.

    A split that was named on purpose serves for nothing else: with `--test_split validation`, there is no validation
    split.

    Raises:
        `BiasEnsembleError`: If a split that was named is missing or named twice, no split is left, or two have names
            of the same meaning.
    """
    asked, where = dict(zip(USES, split_names(args), strict=True)), args.dataset_name
    named = {use: name for use, name in asked.items() if name != use}
    for use, name in named.items():
        if name not in raw:
            raise BiasEnsembleError(
                f"{where}: expected the split {name!r} given by --{use}_split, found {', '.join(raw)}; name one of "
                "these"
            )
    if len(set(named.values())) < len(named):
        options = ", ".join(f"--{use}_split" for use in named)
        raise BiasEnsembleError(f"{where}: expected different splits for {options}, found {', '.join(named.values())}")
    chosen = {}
    free = [split for split in raw if split not in named.values()]
    for use, name in asked.items():
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
    return chosen, [
        f"not used: the split {split} ({images(len(raw[split]))}); use it with --test_split {split}"
        for split in raw
        if split not in chosen.values()
    ]
