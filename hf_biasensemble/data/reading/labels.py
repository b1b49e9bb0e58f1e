"""The names of the classes and the class of each row; the same for bias labels and `is_conflicting`."""

import re
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from hf_biasensemble.data.reading.found import is_text, values_of
from hf_biasensemble.internal.errors import BiasEnsembleError

UNKNOWN = "unknown"
"""The name of blank bias labels, which have the number -1."""

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
_FRACTION = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
_MISSING = {"na", "n/a", "nan", "null", "none", "<na>"}
_FLAGS = {"false": 0, "true": 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
_TYPES = {
    *("string", "large_string", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
_NAMED = 10


def names_of(raw: Mapping[str, datasets.Dataset], column: str, name: str) -> tuple[list[str], list[str]]:
    """The names in a column of classes, and notes about them.

    These are the names of a `ClassLabel`, the distinct texts in sorted order, or whole numbers in order, as text.

    Raises:
        `BiasEnsembleError`: If the column is missing, holds other things, or differs between the splits.
    """
    for split, data in raw.items():
        if column not in data.column_names:
            raise BiasEnsembleError(
                f"{name}, split {split}: expected a label column {column!r}, found columns "
                f"{', '.join(data.column_names)}; name it with --label_column"
            )
    declared = [data.features[column].names for data in raw.values() if hasattr(data.features[column], "names")]
    if declared:
        unlike = [names for names in declared if names != declared[0]]
        if unlike or not all(
            hasattr(data.features[column], "names") or is_text(data, column) for data in raw.values()
        ):
            raise BiasEnsembleError(f"{name}: the splits declare different classes in column {column!r}")
        return list(declared[0]), []
    values: set = set()
    for split, data in raw.items():
        if getattr(data.features[column], "dtype", None) not in _TYPES:
            raise BiasEnsembleError(
                f"{name}, split {split}: expected column {column!r} to hold classes (ClassLabel, string or whole "
                f"numbers), found {data.features[column]}; convert it, or name another with --label_column"
            )
        values.update(value for value in values_of(data, column).unique().to_pylist() if not _is_blank(value))
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) < len(values):
        raise BiasEnsembleError(f"{name}: column {column!r} is text in one split and numbers in another")
    numbers = _whole_numbers(values)
    if numbers is None:
        fraction = next((text for text in texts if _FRACTION.fullmatch(text) and not _WHOLE.fullmatch(text)), None)
        if fraction is not None and all(_FRACTION.fullmatch(text) or _WHOLE.fullmatch(text) for text in texts):
            raise BiasEnsembleError(
                f"{name}: expected column {column!r} to hold classes (text or whole numbers), found {fraction}; name "
                "another with --label_column"
            )
        names = sorted(map(str, values))
        return names, _odd_names(names)
    if values and not numbers:
        raise BiasEnsembleError(
            f"{name}: expected column {column!r} to hold classes (text or whole numbers from 0 on), found only "
            f"{', '.join(sorted(map(str, values))[:_NAMED])}; name another with --label_column"
        )
    if numbers == list(range(len(numbers))):
        return list(map(str, numbers)), []
    shown = ", ".join(map(str, numbers[:_NAMED]))
    return list(map(str, numbers)), [
        f"the numbers in column {column} do not count from 0 on: names of classes are {shown}, in order"
    ]


def _whole_numbers(values: set) -> list[int] | None:
    """The values as whole numbers, in order; `None` if some are text. Negative numbers are not classes, unless all
    are -1 and 1, as in CelebA."""
    found = set()
    for value in values:
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if value.strip().lower() in _MISSING:
                continue
            if not _WHOLE.fullmatch(value):
                return None
        found.add(int(value.partition(".")[0]) if isinstance(value, str) else int(value))
    if values and not found:
        return None  # only words such as None and NA
    return sorted(found if found == {-1, 1} else (number for number in found if number >= 0))


def _odd_names(names: list[str]) -> list[str]:
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(" ".join(name.casefold().split()), []).append(name)
    blank = [
        f"{name!r} has leading or trailing spaces, which are part of the name"
        for name in names
        if name != name.strip()
    ]
    return blank + [
        f"{' and '.join(map(repr, alike))} differ only in case or spaces; they count as different names"
        for alike in by_plain.values()
        if len(alike) > 1
    ]


def numbers_of(data: datasets.Dataset, column: str, names: list[str], where: str, blank: bool = False) -> np.ndarray:
    """The column as int64 in 0..len(names)-1; an error names the first bad row. With `blank`, blank values are -1."""
    feature = data.features[column]
    found = values_of(data, column).combine_chunks()
    encoded = found if pa.types.is_dictionary(found.type) else found.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if hasattr(feature, "names"):
        numbers = [value if value is not None and 0 <= value < len(names) else None for value in values]
    else:
        places = {name: number for number, name in enumerate(names)}
        numbers = [places.get(_name_of(value, places)) for value in values]
    return _looked_up(encoded, values, numbers, names, column, where, blank)


def flags_of(data: datasets.Dataset, column: str, where: str) -> np.ndarray:
    """The column as bool: true and false in any case, or 1 and 0."""
    found = values_of(data, column).combine_chunks()
    encoded = found.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    numbers = [_FLAGS.get(str(value).strip().lower()) for value in values]
    return _looked_up(encoded, values, numbers, ["False", "True"], column, where, False).astype(bool)


def _looked_up(
    encoded: Any, values: list, numbers: list, names: list[str], column: str, where: str, blank: bool
) -> np.ndarray:
    table = np.array([-2 if number is None else number for number in numbers] + [-1 if blank else -2], dtype=np.int64)
    if blank:
        for place, value in enumerate(values):
            if numbers[place] is None and _is_blank(value) or str(value).strip().lower() in _MISSING - set(names):
                table[place] = -1
    indices = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    result = table[indices]
    if (result == -2).any():
        row = int((result == -2).argmax())
        value = values[indices[row]] if indices[row] < len(values) else None
        what = "nothing (null)" if _is_blank(value) else value
        among = f"0..{len(names) - 1} ({', '.join(names[:_NAMED])})" if names else "each row"
        raise BiasEnsembleError(
            f"{where}: column {column!r}, row {row}: expected a class in {among}, found {what}; fix or remove the row"
        )
    return result


def _name_of(value: object, names: Mapping[str, int]) -> str:
    text = str(value)
    if text not in names and _WHOLE.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return text


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
