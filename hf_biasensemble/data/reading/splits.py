"""Names that mean a split (`train`, `Training`, `val`, `seg_train`), and the split of each row of a table."""

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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


def split_names(args: DataArguments) -> dict[str, str]:
    """The name of each split in this dataset."""
    return {use: getattr(args, f"{use}_split") for use in USES}


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
    asked, where = split_names(args), args.dataset_name
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


def splits_of_column(values: pa.ChunkedArray, column: str, where: str) -> np.ndarray:
    """The split of each row, by a column of names or of 0, 1, 2; a name that means none is the split's own name."""
    text = values.cast(pa.string())
    if text.null_count:
        row = int(text.is_null().to_numpy().argmax())
        raise BiasEnsembleError(
            f"{where}: column {column!r}, row {row}: expected a split, found nothing; fill it in, or leave the column "
            f"alone with --split_column {NO_SPLITS}"
        )
    encoded = text.combine_chunks().dictionary_encode()
    names, indices = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    if is_mark(column) and {"0", "1"} & set(names):  # 1 would be validation
        raise BiasEnsembleError(
            f"{where}: column {column!r}: expected names of splits, found {', '.join(names[:5])}; write train and "
            f"test into it, or leave it alone with --split_column {NO_SPLITS}"
        )
    for place, name in enumerate(names):
        if re.fullmatch(r"-?\d+(\.0)?", name) and use_of_value(name) is None:
            raise BiasEnsembleError(
                f"{where}: column {column!r}, row {int((indices == place).argmax())}: expected 0, 1, 2 (train, "
                f"validation, test) or names of splits, found {name}; leave the column alone with --split_column "
                f"{NO_SPLITS}"
            )
    return np.array([use_of_value(name) or name for name in names], dtype=object)[indices]


def splits_of_paths(
    paths: pa.ChunkedArray, labels: pa.ChunkedArray | None, names: Collection[str], where: str
) -> np.ndarray | None:
    """The split of each row, by the first folder in its path that means one; `None` if no path has such a folder.

    A folder is none if it is the label of an image: then it is a class that is called so.

    Raises:
        `BiasEnsembleError`: If some paths have one and others do not; names the first of these.
    """
    folders = pc.replace_substring_regex(pc.fill_null(paths, ""), "/?[^/]*$", "").combine_chunks().dictionary_encode()
    places = folders.dictionary.to_pylist()
    if all(place.startswith(("/", "..")) for place in places):  # where all of it lies says nothing
        common = os.path.commonpath(places)
        places = [os.path.relpath(place, common) for place in places]
    indices = folders.indices.to_numpy()
    classes = set() if labels is None else set(pc.unique(labels.cast(pa.string())).to_pylist())
    meant = []
    for folder in places:
        parts = [part for part in folder.split("/") if part not in classes]
        meant.append(next((use_of(part) or part for part in parts if use_of(part) or part in names), None))
    if not any(meant):
        return None
    if None in meant:
        row = int(np.array([name is None for name in meant])[indices].argmax())
        of = ", ".join(sorted({name for name in meant if name}))
        raise BiasEnsembleError(
            f"{where}, row {row}: expected a split in each path, as others have ({of}), found none in "
            f"{paths[row].as_py()}; remove the row, or take all rows together with --split_column {NO_SPLITS}"
        )
    return np.array(meant, dtype=object)[indices]
