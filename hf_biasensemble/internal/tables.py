"""Save NumPy columns with metadata as a Parquet file, and load them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.internal.files import written_whole

T = TypeVar("T")
_METADATA_KEY = b"hf_biasensemble"


def save_table(path: Path, columns: Mapping[str, np.ndarray | None], stated: dict[str, Any]) -> Path:
    """Writes the columns (N,) or (N, K) that are not `None`, completely or not at all. The values of `stated`, which
    JSON must be able to hold, go into the metadata."""
    table = pa.table({name: _column(values) for name, values in columns.items() if values is not None})
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(stated, sort_keys=True)})
    with written_whole(path) as file:
        pq.write_table(table, file)
    return path


def load_table(path: Path, what: str, remedy: str, build: Callable[[dict[str, np.ndarray], dict[str, Any]], T]) -> T:
    """Returns `build(columns, stated)` for a file of [`save_table`]. Raises `BiasEnsembleError` if it is missing or
    unreadable, or if `build` raises `KeyError` or `ValueError`."""
    try:
        table = pq.read_table(path)
        stated = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        return build({name: _values(table.column(name)) for name in table.column_names}, stated)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = reason_of(error, 200)
        raise BiasEnsembleError(
            f"expected {what} at {path}, found none that can be read ({reason}); {remedy}"
        ) from error


def _column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _values(column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.combine_chunks().flatten().to_numpy().reshape(-1, column.type.list_size)
