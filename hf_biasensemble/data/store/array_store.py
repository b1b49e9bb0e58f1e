"""Arrays that are computed once, kept on disk and read through a memory map.

A store is an `.npy` file, named by a hash of everything it depends on, and a `.json` file, written last, with its
checksum, size and modification time. If size and time match, it opens instantly; otherwise the checksum is verified.
"""

import hashlib
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
    hash_of_shape,
    read_header,
)
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import write_json

_SMALL = 1 << 28  # bytes up to which a process keeps the pages of a store: releasing them costs 0.2 ms a batch
_READ_ALONE = 1 << 16  # bytes from which a row is read without its neighbours


class StoredArray:
    """An array (N, ...) in a store, with the `digest` of [`digest_of`]; `columns` restricts the last dimension.

    A process releases the pages of all but small stores after each read, so stores may exceed its memory. The pages
    stay in the cache of the operating system. A pickled copy maps the same file.
    """

    def __init__(self, file: Path, digest: str, columns: slice = slice(None)):
        self.file, self.digest, self.columns = file, digest, columns
        with open(file, "rb") as stream:
            shape, dtype = read_header(stream)
            self._start = stream.tell()
            # The system counts a writable map as memory, and would refuse it for a large file.
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._releases_pages = len(self._map) > _SMALL and hasattr(mmap, "MADV_DONTNEED")
        self._reads_alone = self._releases_pages and self._row_bytes >= _READ_ALONE
        if self._reads_alone:
            self._map.madvise(mmap.MADV_RANDOM)  # without it, megabytes around each row are read as well
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            mapped = np.frombuffer(self._map, dtype, offset=self._start).reshape(shape)
            self._tensor = torch.from_numpy(mapped)[..., columns]
        self.shape = self._tensor.shape

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredArray, (self.file, self.digest, self.columns)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Values (n, ...) of the rows, an int64 tensor (n,)."""
        return self.index_select(0, rows)

    def index_select(self, dim: int, rows: torch.Tensor) -> torch.Tensor:
        """Like `torch.Tensor.index_select`, along dimension 0 only."""
        if self._reads_alone:
            for row in rows.tolist():  # request all rows ahead of time instead of waiting for one after the other
                start = self._start + row * self._row_bytes
                first = start // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, first, start + self._row_bytes - first)
        values = self._tensor.index_select(dim, rows)
        if self._releases_pages:
            self._map.madvise(mmap.MADV_DONTNEED)
        return values

    def part(self, columns: slice, in_memory: bool) -> "torch.Tensor | StoredArray":
        """A slice of the last dimension, mapped or copied into memory."""
        if not in_memory:
            return StoredArray(self.file, self.digest, columns)
        return torch.from_numpy(np.array(np.load(self.file, mmap_mode="r")[..., columns]))


def digest_of(values: torch.Tensor | StoredArray) -> str:
    """SHA-256 of shape and content, which a store has ready and an array in memory has to compute."""
    if isinstance(values, StoredArray):
        return values.digest
    digest = hash_of_shape(values.shape)
    digest.update(values.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def open_or_make(store: Store, verify: bool = False) -> tuple[StoredArray, dict[str, Any]]:
    """Returns the array of a store and its notes, and makes them if missing or damaged. A complete store opens without
    a lock, even in a read-only folder. `verify` checks its whole content and raises `BiasEnsembleError` if that is
    damaged. Raises `NotWrittenError` if the disk is full or read-only."""
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
                found = _open(file, store.shape, store.dtype)  # another process may have made it meanwhile
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
    """The `source` recorded in a store; empty if unreadable."""
    with suppress(OSError, ValueError, KeyError):
        return json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["source"]
    return ""


class _Unusable(Exception):
    """The message completes a sentence that begins with the file name."""


def _open(file: Path, shape: tuple[int, ...], dtype: Any, verify: bool = False) -> tuple[StoredArray, dict[str, Any]]:
    beside = file.with_suffix(".json")
    try:
        stated = json.loads(beside.read_text(encoding="utf-8"))
        digest, size, time, notes = (stated[key] for key in ("sha256", "bytes", "mtime_ns", "notes"))
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
            if hashlib.file_digest(stream, lambda: hash_of_shape(shape)).hexdigest() != digest:
                raise _Unusable("was altered: its checksum is not the one that was stated")
            if found.st_mtime_ns != time:  # copied or touched
                with suppress(OSError):  # the file may belong to another user
                    write_json(beside, stated | {"mtime_ns": found.st_mtime_ns}, indent=None)
    return StoredArray(file, digest), notes
