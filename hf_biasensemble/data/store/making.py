"""Make the array of a store in parts, by all processes that need it.

The process with the lock of the store starts at the first part, the others at the last, each part under its own lock.
A lock ends with its process, so another one remakes the part of a killed process. All parts go into the same file,
with the same bytes whoever makes them.
"""

import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from hf_biasensemble.data.decoding import ROWS_AT_ONCE, image_progress
from hf_biasensemble.data.store.cache import cache_folder
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import UNFINISHED_SUFFIX, write_json

MOST_PARTS = 2048
MORE_ROOM = "set HF_DATASETS_CACHE to another disk, or make room with: hf-biasensemble cache --clear"

Blocks = Callable[[range, dict[Any, Any]], Iterator[np.ndarray]]
"""`(rows, notes)` -> these rows of an array, in blocks of `ROWS_AT_ONCE`. Its additions to `notes` are stored."""

_DOING = {"pixels": "Decoding", "features": "Encoding"}


class NotWrittenError(BiasEnsembleError):
    """A store could not be written, for lack of space or permissions."""


@dataclass(frozen=True)
class Store:
    """An array (N, ...) on disk and how to make it. `kind`, "pixels" or "features", is its folder in the cache, `name`
    a hash of everything it depends on. `source` names the data in messages and the cache list. `check` is called when
    the array is complete; if it raises, the array is discarded."""

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Blocks
    source: str = ""
    check: Callable[[], None] = lambda: None

    @property
    def file(self) -> Path:
        """The `.npy` file."""
        return cache_folder() / self.kind / f"{self.name}.npy"

    @property
    def folder(self) -> Path:
        """Holds the unfinished array (`array.npy`) and for each part `{first row}.lock`, and `.json` once complete."""
        return self.file.with_suffix(UNFINISHED_SUFFIX)

    def parts(self) -> list[range]:
        """The rows of each part."""
        rows = ROWS_AT_ONCE * max(1, math.ceil(self.shape[0] / ROWS_AT_ONCE / MOST_PARTS))
        return [range(self.shape[0])[first : first + rows] for first in range(0, self.shape[0], rows)]

    def check_room(self) -> None:
        """Raises `NotWrittenError` if the missing parts do not fit on the disk."""
        needed = sum(len(rows) for rows in self.parts() if not self._mark(rows).exists()) * self._row_bytes
        free = shutil.disk_usage(self.file.parent).free
        if needed > free:
            raise NotWrittenError(
                f"expected {needed / 1e9:.1f} GB for the {self.kind} of {self.source or 'the images'} in "
                f"{self.file.parent}, found {free / 1e9:.1f} GB free; {MORE_ROOM}"
            )

    def help(self) -> None:
        """Makes parts from the last one on until every part is complete or in progress elsewhere. Stops if the disk
        is full or cannot be written: only the process with the lock of the store reports that."""
        with suppress(NotWrittenError, OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.check_room()
            self.folder.mkdir(exist_ok=True)
            for rows in reversed(self.parts()):
                with suppress(Timeout, FileNotFoundError), self._lock(rows).acquire(timeout=0):
                    if self.file.with_suffix(".json").exists():
                        return
                    if not self._mark(rows).exists():
                        self._make(rows)

    def finish(self) -> None:
        """Completes the store; needs its lock. Reuses the parts that other processes made, even killed ones, and waits
        for those in progress. On an `OSError` or `BiasEnsembleError`, removes the unfinished array."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.with_suffix(".json").unlink(missing_ok=True)
        array, digest = self.folder / "array.npy", hash_of_shape(self.shape)
        notes: dict[str, Any] = {}
        try:
            with image_progress(_DOING[self.kind], self.source, self.shape[0]) as bar:
                for rows in self.parts():
                    with self._lock(rows):
                        if not self._add(rows, digest, notes):
                            self._make(rows, bar)
                            if not self._add(rows, digest, notes):
                                raise OSError("what was read back differs from what was written")
                    bar.update(rows.stop - bar.n)
            with self._opened() as stream:
                os.fsync(stream.fileno())  # before the file that marks it as complete
            self.check()
            time = array.stat().st_mtime_ns // 10**9 * 10**9  # a whole second, so any later write changes it
            os.utime(array, ns=(time, time))
            os.replace(array, self.file)
        except (OSError, BiasEnsembleError):
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        found = self.file.stat()
        stated = {"source": self.source, "sha256": digest.hexdigest(), "bytes": found.st_size, "notes": notes}
        write_json(self.file.with_suffix(".json"), stated | {"mtime_ns": found.st_mtime_ns}, indent=None)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def _mark(self, rows: range) -> Path:
        return self.folder / f"{rows.start}.json"

    def _lock(self, rows: range) -> FileLock:
        return FileLock(self._mark(rows).with_suffix(".lock"))

    def _opened(self, row: int = 0) -> BinaryIO:
        """Opens the unfinished array, created if missing, to write from a row on. Write-only: a network file system
        may write back whole pages that were read, over what another machine wrote to them meanwhile."""
        file = self.folder / "array.npy"
        stream = open(file, "wb", opener=lambda path, flags: os.open(path, flags & ~os.O_TRUNC, 0o666))
        descr = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": self.shape})
        stream.seek(row * self._row_bytes, os.SEEK_CUR)
        return stream

    def _make(self, rows: range, bar: Any = None) -> None:
        notes: dict[Any, Any] = {}
        checksum = 0
        with self._opened(rows.start) as stream:
            for block in self.blocks(rows, notes):
                content = np.ascontiguousarray(block, self.dtype).data
                checksum = zlib.crc32(content, checksum)
                stream.write(content)
                if bar is not None:
                    bar.update(len(block))
        write_json(self._mark(rows), {"crc32": checksum, "notes": notes}, indent=None)

    def _add(self, rows: range, digest: Any, notes: dict[str, Any]) -> bool:
        """Adds a part to the hash and the notes of the array, unless it is missing or damaged by a crash."""
        with suppress(OSError, ValueError), open(self.folder / "array.npy", "rb") as stream:
            read_header(stream)
            stream.seek(rows.start * self._row_bytes, os.SEEK_CUR)
            stated = json.loads(self._mark(rows).read_text(encoding="utf-8"))
            content = stream.read(len(rows) * self._row_bytes)
            if zlib.crc32(content) == stated.get("crc32"):
                digest.update(content)
                notes |= stated["notes"]
                return True
        return False


def hash_of_shape(shape: tuple[int, ...]) -> Any:
    """A SHA-256 to which the content of an array of this shape is then added."""
    return hashlib.sha256(str(tuple(shape)).encode())


def read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the array that follows in the stream."""
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype
