"""What was found under a name: the rows of each split as a dataset whose images are not opened."""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

TEXT = ("string", "large_string")
"""Types of columns of text."""

_ROWS_AT_ONCE = 1000  # bounds the images in memory that are in a table themselves


@dataclass
class Found:
    """What was found under a name: rows by split, as far as the data themselves name splits.

    Attributes:
        layout: How it is laid out, in words.
        data: The rows of each split; `train` where nothing names splits.
        splits_from: What names the splits, in words, where it is not the data themselves.
        labels_from: What says which class an image is of, where that is not the column of labels.
        notes: What is not read and why, and what looks odd.
        table: The table that names the images, if one does.
    """

    layout: str
    data: dict[str, datasets.Dataset]
    splits_from: str | None = None
    labels_from: str | None = None
    notes: list[str] = field(default_factory=list)
    table: Path | None = None


def as_dataset(rows: pa.Table, column: str = "image") -> datasets.Dataset:
    """Rows of text as a dataset; one column of them are paths of images."""
    chunks = [
        pa.StructArray.from_arrays([pa.nulls(len(chunk), pa.binary()), chunk], ["bytes", "path"])
        for chunk in rows[column].chunks
    ]
    images = pa.chunked_array(chunks, datasets.Image().pa_type)
    rows = rows.set_column(rows.column_names.index(column), column, images)
    features = {name: datasets.Image() if name == column else datasets.Value("string") for name in rows.column_names}
    return datasets.Dataset(rows, info=datasets.DatasetInfo(features=datasets.Features(features)))


def paths_of(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """The paths of a column of images; null where an image is in the table itself."""
    if not isinstance(rows.features.get(column), datasets.Image):
        return pa.chunked_array([pa.nulls(len(rows), pa.string())])
    chunks = []
    for block in rows.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE):
        for images in block[column].chunks:
            content, path = pc.struct_field(images, "bytes"), pc.struct_field(images, "path")
            chunks.append(pc.if_else(content.is_null(), path.cast(pa.string()), None))
    return pa.chunked_array(chunks, pa.string())


def text_of(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A column as text; of a `ClassLabel`, the names, and null for a number such as -1 that is none of theirs."""
    values, feature = values_of(rows, column), rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        is_name = pc.and_(pc.greater_equal(values, 0), pc.less(values, len(feature.names)))
        values = pc.if_else(is_name, values, pa.scalar(None, values.type))
        return pc.take(pa.chunked_array([feature.names], pa.string()), values)
    return values.cast(pa.string())


def values_of(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A column in Arrow."""
    return rows.select_columns([column]).with_format("arrow")[:][column]


def is_text(rows: datasets.Dataset, column: str) -> bool:
    """Whether there is such a column, of text."""
    return getattr(rows.features.get(column), "dtype", None) in TEXT


def with_image_feature(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """A dataset whose bytes, or structs of bytes and path, are images, as other libraries write them to Parquet."""
    feature = data.features.get(column)
    is_struct = isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}
    if getattr(feature, "dtype", None) == "large_binary":
        data = data.cast_column(column, datasets.Value("binary"))
    if is_struct or getattr(feature, "dtype", None) in ("binary", "large_binary"):
        return data.cast_column(column, datasets.Image())
    return data
