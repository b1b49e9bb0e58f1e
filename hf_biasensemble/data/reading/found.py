"""What was found under a name: the rows of each split as a dataset whose images are not opened."""

from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.data.reading.names import ColumnNames
from hf_biasensemble.data.reading.rows import check_inside, located, without_dot


@dataclass
class Found:
    """What was found under a name: rows by split, as far as the data themselves name splits."""

    layout: str
    data: dict[str, datasets.Dataset]
    splits_from: str | None = None
    labels_from: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.splits_from is None and len(self.data) > 1:
            self.splits_from = "the names of its splits"


def as_dataset(rows: pa.Table, root: Path | None, column: str = "image") -> datasets.Dataset:
    """Rows of text as a dataset, whose images are paths: below the root, or as they are."""
    paths = rows[column]
    if root is not None and root != Path():
        paths = pc.binary_join_element_wise(str(root), paths, "/")
    chunks = [
        pa.StructArray.from_arrays([pa.nulls(len(chunk), pa.binary()), chunk], ["bytes", "path"])
        for chunk in paths.chunks
    ]
    kind = datasets.Image().pa_type
    place = rows.column_names.index(column)
    rows = rows.set_column(place, column, pa.chunked_array(chunks, kind))
    features = datasets.Features(
        {name: datasets.Image() if name == column else datasets.Value("string") for name in rows.column_names}
    )
    return datasets.Dataset(rows, info=datasets.DatasetInfo(features=features))


def with_paths(
    data: datasets.Dataset, columns: ColumnNames, file: Path, trusted: bool, notes: list[str]
) -> datasets.Dataset:
    """A dataset whose column of paths, if it is one, is a column of images."""
    if columns.image == "image" and "image" not in data.column_names and "file_name" in data.column_names:
        data = data.rename_column("file_name", "image")
    if getattr(data.features.get(columns.image), "dtype", None) not in ("string", "large_string"):
        return data
    paths = without_dot(data.with_format("arrow")[:][columns.image])
    if not trusted:
        check_inside(paths, file)
    full = located(paths, columns.image, file, notes)
    records = as_dataset(pa.table({columns.image: full}), None, columns.image)
    return datasets.concatenate_datasets([data.remove_columns(columns.image), records], axis=1)


def with_image_feature(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """A dataset whose bytes, or structs of bytes and path, are images, as other libraries write them to Parquet."""
    feature = data.features.get(column)
    if isinstance(feature, datasets.Image):
        return data
    if getattr(feature, "dtype", None) in ("binary", "large_binary"):
        if feature.dtype == "large_binary":
            data = data.cast_column(column, datasets.Value("binary"))
        return data.cast_column(column, datasets.Image())
    if isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}:
        return data.cast_column(column, datasets.Image())
    return data
