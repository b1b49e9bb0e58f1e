"""The names of the classes and the class of each row; the same for bias labels and `is_conflicting`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from hf_biasensemble.data.reading.found import dtype_of, is_text, is_text_or_whole, no_column, values_of
from hf_biasensemble.internal.errors import BiasEnsembleError

UNKNOWN = "unknown"
"""The name of blank bias labels, whose number is -1."""

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
_FRACTION = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
_MISSING = {"na", "n/a", "nan", "null", "none", "<na>"}
_FLAGS = {"false": 0, "true": 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
_NAMED = 10


def names_of(raw: Mapping[str, datasets.Dataset], column: str, name: str) -> tuple[list[str], list[str]]:
    """The classes in a column, over all splits, and notes about them.

    These are the names of a `ClassLabel`, or the distinct values: texts in sorted order, whole numbers in numeric
    order. Refuses other types, and splits of different types.
    """
    for split, data in raw.items():
        if column not in data.column_names:
            advice = "name it with --label_column"
            raise no_column(f"{name}, split {split}", f"a label column {column!r}", data, advice)
    declared = [data.features[column].names for data in raw.values() if hasattr(data.features[column], "names")]
    if declared:
        others_are_text = len(declared) + sum(is_text(data, column) for data in raw.values()) == len(raw)
        if not others_are_text or any(names != declared[0] for names in declared):
            raise BiasEnsembleError(f"{name}: the splits declare different classes in column {column!r}")
        return list(declared[0]), []
    values: set = set()
    for split, data in raw.items():
        if not is_text_or_whole(data, column) and dtype_of(data, column) != "bool":
            raise _not_classes(f"{name}, split {split}", column, str(data.features[column]))
        values.update(value for value in values_of(data, column).unique().to_pylist() if not _is_blank(value))
    texts = [value for value in values if isinstance(value, str)]
    if texts and len(texts) < len(values):
        raise BiasEnsembleError(f"{name}: column {column!r} is text in one split and numbers in another")
    numbers = _whole_numbers(values)
    if numbers is None:
        fractions = [text for text in texts if not _WHOLE.fullmatch(text)]
        if fractions and all(map(_FRACTION.fullmatch, fractions)):
            raise _not_classes(name, column, fractions[0])
        names = sorted(map(str, values))
        return names, _odd_names(names)
    if values and not numbers:
        raise _not_classes(name, column, f"only {', '.join(sorted(map(str, values))[:_NAMED])}")
    names = list(map(str, numbers))
    if numbers == list(range(len(numbers))):
        return names, []
    shown = ", ".join(names[:_NAMED])
    return names, [f"the numbers in column {column} do not count from 0 on: names of classes are {shown}, in order"]


def _not_classes(where: str, column: str, found: str) -> BiasEnsembleError:
    return BiasEnsembleError(
        f"{where}: expected column {column!r} to hold classes (text, ClassLabel or integers), found "
        f"{found}; convert it, or name another with --label_column"
    )


def _whole_numbers(values: set) -> list[int] | None:
    """The values as sorted whole numbers; `None` if some are text. Negative numbers are not classes, unless all are
    -1 and 1, as in CelebA."""
    found = set()
    for value in values:
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if value.strip().lower() in _MISSING:
                continue
            if not _WHOLE.fullmatch(value):
                return None
            value = value.partition(".")[0]
        found.add(int(value))
    if values and not found:
        return None  # only words such as None and NA
    return sorted(found if found == {-1, 1} else (number for number in found if number >= 0))


def _odd_names(names: list[str]) -> list[str]:
    """Notes on names with spaces around them, and on names that are nearly equal."""
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(" ".join(name.casefold().split()), []).append(name)
    padded = [name for name in names if name != name.strip()]
    return [f"{name!r} has leading or trailing spaces, which are part of the name" for name in padded] + [
        f"{' and '.join(map(repr, alike))} differ only in case or spaces; they count as different names"
        for alike in by_plain.values()
        if len(alike) > 1
    ]


def numbers_of(data: datasets.Dataset, column: str, names: list[str], where: str, blank: bool = False) -> np.ndarray:
    """A column of classes as int64 from 0 to len(names) - 1; with `blank`, blank values become -1."""
    if hasattr(data.features[column], "names"):
        return _numbers(data, column, lambda value: value if value in range(len(names)) else None, names, where, blank)
    numbers = {name: number for number, name in enumerate(names)}

    def number_of(value: object) -> int | None:
        text = str(value)
        if text not in numbers and _WHOLE.fullmatch(text):
            text = str(int(text.partition(".")[0]))
        return numbers.get(text)

    return _numbers(data, column, number_of, names, where, blank)


def flags_of(data: datasets.Dataset, column: str, where: str) -> np.ndarray:
    """A column as bool: true and false in any case, or 1 and 0."""
    flags = _numbers(data, column, lambda value: _FLAGS.get(str(value).strip().lower()), ["False", "True"], where)
    return flags.astype(bool)


def _numbers(
    data: datasets.Dataset,
    column: str,
    number_of: Callable[[Any], int | None],
    names: list[str],
    where: str,
    blank: bool = False,
) -> np.ndarray:
    """The number of each value; refuses the first row with a value that has none."""
    found = values_of(data, column).combine_chunks()
    encoded = found if pa.types.is_dictionary(found.type) else found.dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]  # null is not in the dictionary
    indices = encoded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
    numbers = []
    for value in values:
        number = None if value is None else number_of(value)
        if blank and (number is None and _is_blank(value) or str(value).strip().lower() in _MISSING - set(names)):
            number = -1
        numbers.append(-2 if number is None else number)
    result = np.array(numbers, dtype=np.int64)[indices]
    if (result == -2).any():
        row = int((result == -2).argmax())
        value = values[indices[row]]
        among = f"0..{len(names) - 1} ({', '.join(names[:_NAMED])})" if names else "each row"
        raise BiasEnsembleError(
            f"{where}: column {column!r}, row {row}: expected a class in {among}, found "
            f"{'nothing (null)' if _is_blank(value) else value}; fix or remove the row"
        )
    return result


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
