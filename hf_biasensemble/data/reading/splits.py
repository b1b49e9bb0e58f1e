"""Splits: the names that mean one (`train`, `Training`, `val`, `seg_train`), and the split of each row."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import images
from hf_biasensemble.data.reading.found import Found, is_text_or_whole, no_column, paths_of, text_of
from hf_biasensemble.internal.errors import BiasEnsembleError

USES = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev", "valset"),
    "test": ("test", "testing", "eval", "evaluation", "testset"),
}
_USE_OF = {word: use for use, words in USES.items() for word in words}
_NUMBERS = {"0": "train", "1": "validation", "2": "test"}
_UNLABELLED = {"pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup", "unsupervised"}
_NAMED = 10


def use_of(name: str) -> str | None:
    """`train`, `validation` or `test` if the name means that split, in any case; else `None`."""
    return _USE_OF.get(name.strip().lower())


def _use_of_value(value: str) -> str | None:
    """`use_of` for a column of splits, where 0, 1, 2 are train, validation, test as in WILDS."""
    return use_of(value) or _NUMBERS.get(value.strip().removesuffix(".0"))


def with_affix(name: str) -> tuple[str, str] | None:
    """The split in a longer name, and the rest of the name: `seg_train` is train and `seg`; `None` without a split.

    `test-tube` is test and `tube`: only its content shows whether such a folder is a split.
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
    """Whether a name announces images without labels: `seg_pred`, `unlabeled`."""
    return bool(_UNLABELLED & set(re.split(r"[^a-z]+", name.lower())))


def _is_mark(column: str) -> bool:
    """Whether a column's name marks the images of one split: `is_train`."""
    return use_of(re.sub(r"^(is|in)_", "", column.lower())) is not None


def split_names(args: DataArguments) -> list[str]:
    """The names of the splits for training, validation and testing, by option."""
    return [getattr(args, f"{use}_split") for use in USES]


def split_column(names: list[str], asked: str | None) -> str:
    """The column of splits: the one given by option, or the one called `split` in any case."""
    return asked or next((name for name in names if name.lower() == "split"), "split")


def chosen_splits(raw: Mapping[str, Any], args: DataArguments) -> tuple[dict[str, str], list[str]]:
    """The existing splits to train, validate and test on, by use, and notes about the others.

    A split named by option has no other use: with `--test_split validation`, there is no validation split. Refuses a
    named split that is missing or named twice, several splits for one use, and splits without a use.
    """
    asked, where = dict(zip(USES, split_names(args), strict=True)), args.dataset_name
    named = {use: name for use, name in asked.items() if name != use}
    for use, name in named.items():
        if name not in raw:
            raise BiasEnsembleError(
                f"{where}: expected the split {name!r} given by --{use}_split, found {', '.join(raw)}; choose one"
            )
    if len(set(named.values())) < len(named):
        options = ", ".join(f"--{use}_split" for use in named)
        raise BiasEnsembleError(f"{where}: expected different splits for {options}, found {', '.join(named.values())}")
    chosen = {}
    free = [split for split in raw if split not in named.values()]
    for use, name in asked.items():
        alike = [split for split in free if use_of(split) == use] or [s for s in free if meant_by(s) == use]
        if use in named or name in alike:
            chosen[use] = name
        elif len(alike) == 1:
            chosen[use] = alike[0]
        elif alike:
            raise BiasEnsembleError(
                f"{where}: expected one split for {use}, found {', '.join(alike)}; choose with --{use}_split "
                f"{alike[0]}, or --{use}_split {alike[1]}"
            )
    if not chosen:
        raise BiasEnsembleError(
            f"{where}: expected a split train, validation or test, found {', '.join(raw)}; name them with "
            "--train_split, --validation_split and --test_split, or ignore the column with --split_column none"
        )
    return chosen, [
        f"not used: the split {split} ({images(len(raw[split]))}); use it with --test_split {split}"
        for split in raw
        if split not in chosen.values()
    ]


def split_rows(found: Found, args: DataArguments) -> tuple[dict[str, datasets.Dataset], str | None]:
    """The rows by split, and in words where the splits come from: their names, a column, or folders in the paths.

    Refuses sources that disagree, rows without a split where others have one, and a column of splits with another
    name, whose test images would otherwise be trained on.
    """
    data, asked, where = found.data, args.split_column, str(args.dataset_name)
    by_names = found.splits_from or ("the names of its splits" if len(data) > 1 else None)
    rows = next(iter(data.values()))
    column = split_column(rows.column_names, None if asked == "paths" else asked)
    having = [split for split, some in data.items() if column in some.column_names]
    if asked in ("none", "paths"):
        having = []
    elif asked and not having:
        raise no_column(where, f"the column {asked!r} given by --split_column", rows, "choose one of them")
    elif having and not asked and not is_text_or_whole(data[having[0]], column):
        return data, by_names
    for split in having:
        feature = data[split].features[column]
        if not isinstance(feature, datasets.Value | datasets.ClassLabel):
            raise BiasEnsembleError(
                f"{where}: expected names of splits, or 0, 1, 2, in the column {column!r} given by --split_column, "
                f"found {feature}; name another column, or use --split_column none"
            )
        if by_names:
            _check_names(split, data[split], column, by_names, where)
    if by_names:
        return data, by_names
    by_column = by_paths = None
    if having:
        values = text_of(rows, column)
        by_column = _by_column(values, column, where)
    if found.table and asked in (None, "paths"):
        try:
            by_paths = _by_paths(rows, found.table, args)
        except BiasEnsembleError:
            if by_column is None:
                raise
    if by_column is not None and by_paths is not None:
        advice = f"use the column with --split_column {column}, or the folders with --split_column paths"
        _check_equal("the folder in the path", by_paths, column, by_column, str(found.table), advice)
    if by_column is not None:
        splits, source = by_column, f"the column {column} ({', '.join(values.unique().to_pylist()[:_NAMED])})"
    elif by_paths is not None:
        splits, source = by_paths, "the folders in its paths"
    else:
        if asked is None:
            _refuse_splits_of_another_name(rows, args)
        return data, None
    return {split: rows.select(np.flatnonzero(splits == split)) for split in dict.fromkeys(splits.tolist())}, source


def _check_names(split: str, rows: datasets.Dataset, column: str, names: str, where: str) -> None:
    """Refuses a column that contradicts the name of the split."""
    values = text_of(rows, column)
    if any(value is None or _use_of_value(value) is None for value in values.unique().to_pylist()):
        return  # not splits: the number of a fold, for example
    by_name, where = np.full(len(rows), _use_of_value(split) or split, dtype=object), f"{where}, split {split}"
    advice = f"use {names} with --split_column none, or one table with --dataset_name and --split_column {column}"
    _check_equal(names, by_name, column, _by_column(values, column, where), where, advice)


def _check_equal(
    other: str, by_other: np.ndarray, column: str, by_column: np.ndarray, where: str, advice: str
) -> None:
    different = np.flatnonzero(by_other != by_column)
    if len(different):
        row = int(different[0])
        raise BiasEnsembleError(
            f"{where}, row {row}: expected {other} and the column {column!r} to agree on the split, found "
            f"{by_other[row]} and {by_column[row]}; {advice}"
        )


def _refuse_splits_of_another_name(rows: datasets.Dataset, args: DataArguments) -> None:
    """Refuses a column such as `partition` whose values are splits: its test images would be trained on."""
    first = rows.with_format("arrow")[:1].to_pylist()
    for column in rows.column_names if first else []:
        if column in (args.image_column, args.label_column):
            continue
        if _is_mark(column):
            raise BiasEnsembleError(
                f"{args.dataset_name}: expected splits in a column 'split', found {column!r}, which marks a split by "
                "its name; add a column split with train and test, or read all rows together with --split_column none"
            )
        if not is_text_or_whole(rows, column):
            continue
        meaning = _use_of_value if column.lower() in ("partition", "set", "subset") else meant_by
        if not hasattr(rows.features[column], "names") and not meaning(str(first[0][column])):
            continue  # saves reading all rows
        values = text_of(rows, column).unique().to_pylist()
        uses = {meaning(value or "") for value in values}
        if None not in uses and "train" in uses and len(uses) > 1:
            raise BiasEnsembleError(
                f"{args.dataset_name}: expected splits in a column 'split', found them in {column!r} "
                f"({', '.join(values)}); use them with --split_column {column}, or read all rows together with "
                "--split_column none"
            )


def _by_column(values: pa.ChunkedArray, column: str, where: str) -> np.ndarray:
    """The split of each row, by a column of names or of 0, 1, 2; other names are names of splits themselves."""
    where = f"{where}: column {column!r}"
    names = values.unique().to_pylist()
    for name in names:
        if name is None or re.fullmatch(r"-?\d+(\.0)?", name) and _use_of_value(name) is None:
            raise BiasEnsembleError(
                f"{where}, row {values.to_pylist().index(name)}: expected a split, found {name or 'nothing'}; write "
                "names, or 0, 1, 2 for train, validation, test, or ignore the column with --split_column none"
            )
    if _is_mark(column) and {"0", "1"} & set(names):  # 1 would be validation
        raise BiasEnsembleError(
            f"{where}: expected names of splits, found {', '.join(names[:5])}; replace them by train and test, or "
            "ignore the column with --split_column none"
        )
    encoded = values.combine_chunks().dictionary_encode()
    return np.array([_use_of_value(name) or name for name in names], dtype=object)[encoded.indices.to_numpy()]


def _by_paths(rows: datasets.Dataset, table: Path, args: DataArguments) -> np.ndarray | None:
    """The split of each row, by the first folder in its path that means one; `None` if no path has such a folder.

    Folders whose name is also a label are classes. Refuses a path without a split where others have one.
    """
    named = Path(str(args.dataset_name)).expanduser()
    folder = named if named.is_dir() else table.parent  # the folder's own name does not count
    start = "" if str(folder) == "." else f"{folder}/"
    paths = pc.fill_null(paths_of(rows, args.image_column), "")
    paths = pc.if_else(pc.starts_with(paths, start), pc.utf8_slice_codeunits(paths, len(start)), paths)
    classes, names = set(), split_names(args)
    if is_text_or_whole(rows, args.label_column):
        classes = set(text_of(rows, args.label_column).unique().to_pylist())
    folders = pc.replace_substring_regex(paths, "/?[^/]*$", "").combine_chunks().dictionary_encode()
    places, indices = folders.dictionary.to_pylist(), folders.indices.to_numpy()
    if places and all(place.startswith(("/", "..")) for place in places):  # a common folder is no split
        common = os.path.commonpath(places)
        places = [os.path.relpath(place, common) for place in places]
    meant = []
    for place in places:
        parts = [part for part in place.split("/") if part not in classes]
        meant.append(next((use_of(part) or part for part in parts if use_of(part) or part in names), None))
    if not any(meant):
        return None
    if None in meant:
        row = int(np.array([name is None for name in meant])[indices].argmax())
        raise BiasEnsembleError(
            f"{table}, row {row}: expected a split in each path, as others have "
            f"({', '.join(sorted({name for name in meant if name}))}), found none in {paths[row].as_py()}; remove the "
            f"row, or read all rows together with --split_column none"
        )
    return np.array(meant, dtype=object)[indices]
