"""The rows found under a name, by split, and helpers to read their columns. Images are not opened."""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.internal.errors import BiasEnsembleError

_TEXT = ("string", "large_string")
_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_ROWS_AT_ONCE = 1000  # bounds memory if the images are stored in the table


@dataclass
class Found:
    """The rows found under a name, by split; all in `train` if the files do not name splits.

    `layout`, `splits_from` and `labels_from` are words for the printed plan; the last two are `None` if splits or
    labels come from the dataset itself. `notes` lists what is not read and what looks odd, `table` is the table that
    lists the images, if any.
    """

    layout: str
    data: dict[str, datasets.Dataset]
    splits_from: str | None = None
    labels_from: str | None = None
    notes: list[str] = field(default_factory=list)
    table: Path | None = None


def paths_of(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """The paths in an image column; null for images stored in the table."""
    if not isinstance(rows.features.get(column), datasets.Image):
        return pa.chunked_array([pa.nulls(len(rows), pa.string())])
    chunks = []
    for block in rows.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE):
        for images in block[column].chunks:
            content, path = pc.struct_field(images, "bytes"), pc.struct_field(images, "path")
            chunks.append(pc.if_else(content.is_null(), path.cast(pa.string()), None))
    return pa.chunked_array(chunks, pa.string())


def text_of(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A column as text; a `ClassLabel` gives its names, and null for numbers without a name, such as -1."""
    values, feature = values_of(rows, column), rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        is_name = pc.and_(pc.greater_equal(values, 0), pc.less(values, len(feature.names)))
        values = pc.if_else(is_name, values, pa.scalar(None, values.type))
        return pc.take(pa.chunked_array([feature.names], pa.string()), values)
    return values.cast(pa.string())


def values_of(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A column in Arrow."""
    return rows.select_columns([column]).with_format("arrow")[:][column]


def dtype_of(rows: datasets.Dataset, column: str) -> str | None:
    """The dtype of a column; `None` if it is missing or nested."""
    return getattr(rows.features.get(column), "dtype", None)


def is_text(rows: datasets.Dataset, column: str) -> bool:
    """Whether a column exists and holds text."""
    return dtype_of(rows, column) in _TEXT


def is_text_or_whole(rows: datasets.Dataset, column: str) -> bool:
    """Whether a column exists and holds text or whole numbers, as a `ClassLabel` does."""
    return dtype_of(rows, column) in (*_TEXT, *_WHOLE)


def no_column(where: str, expected: str, rows: datasets.Dataset, advice: str) -> BiasEnsembleError:
    """The error for a missing column; lists the existing ones."""
    return BiasEnsembleError(f"{where}: expected {expected}, found columns {', '.join(rows.column_names)}; {advice}")


def with_image_feature(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """Declares a column of bytes, or of structs of bytes and path, as images: other libraries write Parquet so."""
    feature = data.features.get(column)
    is_struct = isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}
    is_image = is_struct or dtype_of(data, column) in ("binary", "large_binary")
    return data.cast_column(column, datasets.Image()) if is_image else data
