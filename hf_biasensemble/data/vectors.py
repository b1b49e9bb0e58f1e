"""Reads vectors, from any model of any modality, instead of images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.data.reading.found import is_text, no_column
from hf_biasensemble.data.reading.tables import is_binary_table, open_binary_tables
from hf_biasensemble.internal.errors import BiasEnsembleError

_ROWS_AT_ONCE = 1000


def vectors_of(data: datasets.Dataset, column: str, where: str) -> np.ndarray:
    """The vectors (N, D), float32, in a column of lists of numbers.

    Refuses a row that is null, differs in length from the first one, or has a number that is not finite in float32.
    `where` describes the rows in messages.
    """
    if column not in data.column_names:
        raise no_column(where, f"the column {column!r} given by --feature_column", data, "choose one of them")
    where = f"{where}, column {column!r}"
    parts: list[np.ndarray] = []
    for number, block in enumerate(data.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE)):
        lists = block[column].combine_chunks()
        kind = lists.type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
            raise BiasEnsembleError(f"{where}: expected a list of numbers in each row, found {data.features[column]}")
        parts.append(_checked(lists, parts[0].shape[1] if parts else None, where, number * _ROWS_AT_ONCE))
    return np.concatenate(parts)


def _checked(lists: pa.Array, width: int | None, where: str, first: int) -> np.ndarray:
    """The vectors (n, D) of a block of rows, the first of which has the number `first`."""

    def refuse(bad: np.ndarray, expected: str, found: str) -> None:
        if bad.any():
            place = int(bad.argmax())
            raise BiasEnsembleError(f"{where}, row {first + place}: expected {expected}, found {found}")

    refuse(lists.is_null().to_numpy(zero_copy_only=False), "a vector", "null")
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if width is None else width
    refuse(lengths == 0, "a vector", "an empty list")
    for other in np.unique(lengths[lengths != width])[:1]:
        refuse(lengths == other, f"a vector of {width} numbers, as in the first row", f"one of {other}")
    numbers = pc.list_flatten(lists)
    missing = numbers.is_null().to_numpy(zero_copy_only=False).reshape(-1, width).any(axis=1)
    refuse(missing, "numbers", "null among them")
    with np.errstate(over="ignore"):
        vectors = numbers.to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32)
    refuse(~np.isfinite(vectors).all(axis=1), "finite numbers of float32", "NaN, or one that is too large")
    return vectors


def vectors_in(path: Path, column: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and vectors of each split in a folder of `save_to_disk`, or of a table, whose name is empty."""
    if path.is_file() and is_binary_table(path.name):
        found: Any = open_binary_tables([path], str(path.resolve()))
    elif any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        found = datasets.load_from_disk(str(path))
    else:
        raise BiasEnsembleError(f"expected a Parquet or Arrow file, or a folder of save_to_disk, found {path}")
    for split, rows in (found if isinstance(found, dict) else {"": found}).items():
        yield str(split), vectors_of(rows, column, f"{path} {split}".strip())


def texts_of(data: datasets.Dataset, others: list[str | None]) -> datasets.Dataset | None:
    """The columns of text except `others`; `None` if there are none."""
    names = [name for name in data.column_names if is_text(data, name) and name not in others]
    return data.select_columns(names) if names else None
