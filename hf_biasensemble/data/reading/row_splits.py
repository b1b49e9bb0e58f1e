"""The split of each row, by a column or by the folders in the paths of the images, where nothing else names splits."""

import os
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.found import TEXT, Found, paths_of, text_of
from hf_biasensemble.data.reading.splits import (
    FROM_PATHS,
    NO_SPLITS,
    is_mark,
    meant_by,
    split_column,
    split_names,
    use_of,
    use_of_value,
)
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 10
_TYPES = (*TEXT, *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def split_rows(found: Found, args: DataArguments) -> tuple[dict[str, datasets.Dataset], str | None]:
    """The rows by split, and what says the splits: their names, a column, or the folders in the paths.

    Raises:
        `BiasEnsembleError`: If two of these say different splits, a row has none where others have one, or splits are
            in a column of another name, whose test images would be trained on.
    """
    data, asked, where = found.data, args.split_column, str(args.dataset_name)
    by_names = found.splits_from or ("the names of its splits" if len(data) > 1 else None)
    rows = next(iter(data.values()))
    column = split_column(rows.column_names, None if asked == FROM_PATHS else asked)
    having = [split for split, some in data.items() if column in some.column_names]
    if asked in (NO_SPLITS, FROM_PATHS):
        having = []
    elif asked and not having:
        raise BiasEnsembleError(
            f"{where}: expected the column {asked!r} given by --split_column, found columns "
            f"{', '.join(rows.column_names)}"
        )
    elif having and not asked and not _is_text_or_whole(data[having[0]], column):
        return data, by_names
    for split in having:
        if not isinstance(data[split].features[column], datasets.Value | datasets.ClassLabel):
            raise BiasEnsembleError(
                f"{where}: expected names of splits, or 0, 1, 2, in the column {column!r} given by --split_column, "
                f"found {data[split].features[column]}; name another column, or use --split_column {NO_SPLITS}"
            )
    if by_names:
        for split in having:
            _check_names(split, data[split], column, by_names, where)
        return data, by_names
    by_column = by_paths = None
    if having:
        values = text_of(rows, column)
        by_column = _splits_of_column(values, column, where)
    if found.table and asked in (None, FROM_PATHS):
        try:
            by_paths = _by_paths(rows, found.table, args)
        except BiasEnsembleError:
            if by_column is None:
                raise
    if by_column is None and by_paths is None:
        if asked is None:
            _refuse_splits_of_another_name(rows, args)
        return data, None
    if by_column is not None and by_paths is not None:
        _refuse_difference(
            *("the folder in the path", by_paths, column, by_column, str(found.table)),
            f"take the column with --split_column {column}, or the folders with --split_column {FROM_PATHS}",
        )
    splits, said = by_paths, "the folders in its paths"
    if by_column is not None:
        splits, said = by_column, f"the column {column} ({', '.join(values.unique().to_pylist()[:_NAMED])})"
    assert splits is not None
    parts = {split: rows.select((splits == split).nonzero()[0]) for split in dict.fromkeys(splits.tolist())}
    return parts, said


def _check_names(split: str, rows: datasets.Dataset, column: str, names: str, where: str) -> None:
    """Refuses a column that says other splits than the names of the splits do."""
    values = text_of(rows, column)
    if any(value is None or use_of_value(value) is None for value in values.unique().to_pylist()):
        return  # of something else, such as folds
    named = np.full(len(rows), use_of_value(split) or split, dtype=object)
    _refuse_difference(
        *(names, named, column, _splits_of_column(values, column, where), f"{where}, split {split}"),
        f"use the former with --split_column {NO_SPLITS}, or name one table with --dataset_name and --split_column "
        f"{column}",
    )


def _refuse_difference(
    other: str, by_other: np.ndarray, column: str, by_column: np.ndarray, where: str, advice: str
) -> None:
    different = np.flatnonzero(by_other != by_column)
    if len(different):
        row = int(different[0])
        raise BiasEnsembleError(
            f"{where}, row {row}: expected {other} and the column {column!r} to say the same split, found "
            f"{by_other[row]} and {by_column[row]}; {advice}"
        )


def _refuse_splits_of_another_name(rows: datasets.Dataset, args: DataArguments) -> None:
    """Refuses a column such as `partition` whose values are splits: its test images would be trained on."""
    first = rows.with_format("arrow")[:1].to_pylist()
    for column in rows.column_names if first else []:
        if column in (args.image_column, args.label_column):
            continue
        if is_mark(column):
            raise BiasEnsembleError(
                f"{args.dataset_name}: expected splits in a column 'split', found {column!r}, which marks a split by "
                "its name; add a column split with train and test, or take all rows together with --split_column "
                f"{NO_SPLITS}"
            )
        if not _is_text_or_whole(rows, column):
            continue
        meaning = use_of_value if column.lower() in ("partition", "set", "subset") else meant_by
        if not hasattr(rows.features[column], "names") and not meaning(str(first[0][column])):
            continue  # seen before all rows are
        values = text_of(rows, column).unique().to_pylist()
        uses = {meaning(value or "") for value in values}
        if None not in uses and "train" in uses and len(uses) > 1:
            raise BiasEnsembleError(
                f"{args.dataset_name}: expected splits in a column 'split', found them in {column!r} "
                f"({', '.join(values)}); take them with --split_column {column}, or all rows together with "
                f"--split_column {NO_SPLITS}"
            )


def _is_text_or_whole(rows: datasets.Dataset, column: str) -> bool:
    return str(getattr(rows.features[column], "dtype", "")) in _TYPES


def _splits_of_column(values: pa.ChunkedArray, column: str, where: str) -> np.ndarray:
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


def _by_paths(rows: datasets.Dataset, table: Path, args: DataArguments) -> np.ndarray | None:
    """The split of each row, by the first folder in its path that means one; `None` if no path has such a folder.

    A folder is none if it is the label of an image: then it is a class that is called so.

    Raises:
        `BiasEnsembleError`: If some paths have one and others do not; names the first of these.
    """
    named = Path(str(args.dataset_name)).expanduser()
    folder = named if named.is_dir() else table.parent  # whose own name says nothing of splits
    start = "" if str(folder) == "." else f"{folder}/"
    paths = pc.fill_null(paths_of(rows, args.image_column), "")
    paths = pc.if_else(pc.starts_with(paths, start), pc.utf8_slice_codeunits(paths, len(start)), paths)
    classes = set()
    if args.label_column in rows.column_names and _is_text_or_whole(rows, args.label_column):
        classes = set(text_of(rows, args.label_column).unique().to_pylist())
    names = split_names(args)
    folders = pc.replace_substring_regex(paths, "/?[^/]*$", "").combine_chunks().dictionary_encode()
    places = folders.dictionary.to_pylist()
    if places and all(place.startswith(("/", "..")) for place in places):  # where all of it lies says nothing
        common = os.path.commonpath(places)
        places = [os.path.relpath(place, common) for place in places]
    indices = folders.indices.to_numpy()
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
            f"{table}, row {row}: expected a split in each path, as others have ({of}), found none in "
            f"{paths[row].as_py()}; remove the row, or take all rows together with --split_column {NO_SPLITS}"
        )
    return np.array(meant, dtype=object)[indices]
