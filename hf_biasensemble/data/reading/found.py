"""What was found under a name: the rows of each split as a dataset whose images are not opened."""

from dataclasses import dataclass, field

import datasets
import pyarrow as pa


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


def with_image_feature(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """A dataset whose bytes, or structs of bytes and path, are images, as other libraries write them to Parquet."""
    feature = data.features.get(column)
    is_struct = isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}
    if getattr(feature, "dtype", None) == "large_binary":
        data = data.cast_column(column, datasets.Value("binary"))
    if is_struct or getattr(feature, "dtype", None) in ("binary", "large_binary"):
        return data.cast_column(column, datasets.Image())
    return data
