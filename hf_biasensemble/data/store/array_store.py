"""Arrays on disk: each is made once and read through a memory map by all.

A store is a plain `.npy` file, named by a hash of all that it depends on, and a `.json` file beside it, which is
written last: without it there is no store. It holds the checksum of the array, and size and time of the `.npy` file.
While these are as stated, nobody has written to the file, and it opens at once however large it is; otherwise the
checksum decides.
"""

import json
import math
import mmap
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_biasensemble.data.store.cache import sole_maker
from hf_biasensemble.data.store.making import (
    MORE_ROOM,
    NotWrittenError,
    Store,
    add_to_hash,
    hash_of_shape,
    read_header,
    write_json,
)
from hf_biasensemble.internal.errors import BiasEnsembleError

_SMALL = 1 << 28  # bytes of a store whose pages a process keeps: giving them back costs small batches a fifth of a ms
_READ_ALONE = 1 << 16  # bytes of a row from which on it is read by itself, not with what lies around it


class StoredArray:
    """An array (N, ...) in a store; indexed by a tensor of rows, it gives a tensor in memory.

    Pages of all but small stores are given back after each read, so that a process that reads one larger than its
    memory does not grow; the operating system still keeps them in its cache. Copies in other processes, also those
    that pickling makes, map the same file.

    Args:
        file (`Path`): The `.npy` file of a store that was checked.
        digest (`str`): SHA-256 of shape and content, as of [`digest_of`].
        columns (`slice`, *optional*): Of the last dimension, those that are read; by default all.
    """

    def __init__(self, file: Path, digest: str, columns: slice = slice(None)):
        self.file, self.digest, self.columns = file, digest, columns
        with open(file, "rb") as stream:
            shape, dtype = read_header(stream)
            self._start = stream.tell()
            # Read-only: a map that could be written to is counted as memory, which a large file exceeds.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._gives_back = len(self._map) > _SMALL and hasattr(mmap, "MADV_DONTNEED")
        self._reads_alone = self._gives_back and self._row_bytes >= _READ_ALONE
        if self._reads_alone:
            self._map.madvise(mmap.MADV_RANDOM)  # or megabytes around each row of a random batch are read as well
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
            mapped = np.frombuffer(self._map, dtype, offset=self._start).reshape(shape)
            self._tensor = torch.from_numpy(mapped)[..., columns]
        self.shape = self._tensor.shape

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredArray, (self.file, self.digest, self.columns)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """The values (n, ...) of these rows (int64)."""
        return self.index_select(0, rows)

    def index_select(self, dim: int, rows: torch.Tensor) -> torch.Tensor:
        """As of a tensor; `dim` is 0."""
        if self._reads_alone:
            for row in rows.tolist():  # all at once and ahead, where a page that is missed would be waited for
                start = self._start + row * self._row_bytes
                first = start // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, first, start + self._row_bytes - first)
        values = self._tensor.index_select(dim, rows)
        if self._gives_back:
            self._map.madvise(mmap.MADV_DONTNEED)
        return values

    def part(self, columns: slice, in_memory: bool) -> "torch.Tensor | StoredArray":
        """Some columns of the last dimension, mapped or copied into memory."""
        if not in_memory:
            return StoredArray(self.file, self.digest, columns)
        return torch.from_numpy(np.array(np.load(self.file, mmap_mode="r")[..., columns]))


def digest_of(values: torch.Tensor | StoredArray) -> str:
    """SHA-256 of shape and content, the same for an array in memory and in a store, where it is not computed again."""
    if isinstance(values, StoredArray):
        return values.digest
    digest = hash_of_shape(values.shape)
    digest.update(values.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def open_or_make(store: Store, verify: bool = False) -> tuple[StoredArray, dict[str, Any]]:
    """The array of a store and its notes, made first if there is none that passes the check.

    It is opened before any lock is taken, so that one in a read-only folder serves. Processes that want the same store
    at once, on one machine or on several that see the folder, share the work. What a killed process made is kept.

    Args:
        store (`Store`): Which array, and how it is made.
        verify (`bool`, *optional*, defaults to `False`): Check all of a store that is there, and refuse it if it is
            damaged.

    Raises:
        `NotWrittenError`: If the disk has no room or cannot be written.
        `BiasEnsembleError`: If a store to verify is damaged.
    """
    file, kind, source = store.file, store.kind, store.source
    try:
        return _open(file, store.shape, store.dtype, verify)
    except OSError:
        pass
    except _Unusable as reason:
        if verify:
            raise BiasEnsembleError(
                f"--verify_pixels: expected {kind} as they were written, found that {file} {reason}; remove it to "
                "have them made again"
            ) from reason
    try:
        sharing = f"{source}: sharing the work with another process that makes the same {kind}"
        with sole_maker(file, sharing, store.help) as problem:
            if problem:
                raise problem
            try:
                found = _open(file, store.shape, store.dtype)  # another process may have been faster
            except (OSError, _Unusable) as reason:
                if isinstance(reason, _Unusable):
                    print(f"{source}: the store {file} {reason}; making it again", flush=True)
                store.check_room()
                store.finish()
                found = _open(file, store.shape, store.dtype)
            shutil.rmtree(store.folder, ignore_errors=True)
            return found
    except OSError as error:
        raise NotWrittenError(
            f"the {kind} of {source or 'the images'} could not be written to {file.parent} "
            f"({error.strerror or error}); {MORE_ROOM}"
        ) from error


def source_of(file: Path) -> str:
    """What a store was made from, by its own word; nothing if that cannot be read."""
    with suppress(OSError, ValueError, KeyError):
        return json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["source"]
    return ""


class _Unusable(Exception):
    """Says what is wrong with the file."""


def _open(file: Path, shape: tuple[int, ...], dtype: Any, verify: bool = False) -> tuple[StoredArray, dict[str, Any]]:
    beside = file.with_suffix(".json")
    try:
        stated = json.loads(beside.read_text(encoding="utf-8"))
        digest, size, time = stated["sha256"], stated["bytes"], stated["mtime_ns"]
        notes = stated["notes"]
    except (ValueError, KeyError, TypeError) as error:
        raise _Unusable(f"has a {beside.name} that cannot be read") from error
    found = file.stat()
    if found.st_size != size:
        raise _Unusable(f"has {found.st_size:,} bytes, not {size:,}")
    with open(file, "rb") as stream:
        try:
            header = read_header(stream)
        except ValueError as error:
            raise _Unusable("is no array") from error
        if header != (shape, np.dtype(dtype)):
            raise _Unusable(f"holds an array {header[0]} of {header[1]}, not {shape} of {np.dtype(dtype)}")
        if verify or found.st_mtime_ns != time:
            if add_to_hash(hash_of_shape(shape), stream, size).hexdigest() != digest:
                raise _Unusable("was altered: its checksum is not the one that was stated")
            if found.st_mtime_ns != time:  # copied or touched, but not altered
                with suppress(OSError):  # somebody else's file
                    write_json(beside, stated | {"mtime_ns": found.st_mtime_ns})
    return StoredArray(file, digest), notes
