"""How the array of a store is made: in parts, by all processes that want it.

The process that holds the store's lock makes the parts from the first one on, the others from the last one on, each
under a lock of its own. They write them into the same file, and mark those that are complete. A lock ends with its
process, so the part of a killed one is made again by whoever comes. The parts, and so the bytes of the array, are the
same whoever makes them.
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
from hf_biasensemble.internal.files import UNFINISHED_SUFFIX, written_whole

MOST_PARTS = 2048
MORE_ROOM = "set HF_DATASETS_CACHE to another disk, or make room with: hf-biasensemble cache --clear"

Blocks = Callable[[range, dict[Any, Any]], Iterator[np.ndarray]]
"""`(rows, notes)` -> these rows of an array, in blocks of `ROWS_AT_ONCE`. What it puts into `notes` is kept."""

_BYTES_AT_ONCE = 1 << 22
_DOING = {"pixels": "Decoding", "features": "Encoding"}


class NotWrittenError(BiasEnsembleError):
    """A store could not be written: for want of room or of rights."""


@dataclass(frozen=True)
class Store:
    """An array on disk, and how it is made, in a folder beside it that is removed with its last part.

    Attributes:
        kind: What it holds, `"pixels"` or `"features"`; the folder in the cache.
        name: Hash of all that the array depends on.
        shape: Of the array, (N, ...).
        dtype: Of the array.
        blocks: The array from one row to another, in blocks.
        source: What it is made from, for messages and the list of the cache.
        check: Called when the array is complete; if it raises, there is no store.
    """

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
        """Of the array so far (`array.npy`) and, for each part, the row that it begins with and `.lock`, and `.json`
        once it is made."""
        return self.file.with_suffix(UNFINISHED_SUFFIX)

    def parts(self) -> list[range]:
        """The rows of each part."""
        rows = ROWS_AT_ONCE * max(1, math.ceil(self.shape[0] / ROWS_AT_ONCE / MOST_PARTS))
        return [range(self.shape[0])[first : first + rows] for first in range(0, self.shape[0], rows)]

    def check_room(self) -> None:
        """Refuses to begin what will not fit.

        Raises:
            `NotWrittenError`: If the disk has no room for the array.
        """
        needed = sum(len(rows) for rows in self.parts() if not self._mark(rows).exists()) * self._row_bytes
        free = shutil.disk_usage(self.file.parent).free
        if needed > free:
            raise NotWrittenError(
                f"expected {needed / 1e9:.1f} GB for the {self.kind} of {self.source or 'the images'} in "
                f"{self.file.parent}, found {free / 1e9:.1f} GB free; {MORE_ROOM}"
            )

    def help(self) -> None:
        """Makes parts, from the last one on, until there is none that nobody has begun. Where it cannot, for want of
        room or of rights, it stops: whether there will be a store is for the process with the store's lock to say."""
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
        """Makes the array and all that goes with it, for the only process that is here. It keeps the parts that others
        made, also killed ones, and waits for those that they are making.

        Raises:
            `OSError`, `BiasEnsembleError`: If it cannot be written, or a block or the check fails; nothing is left.
        """
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
                                raise OSError("what was written is not what is read")
                    bar.update(rows.stop - bar.n)
            with self._opened() as stream:
                os.fsync(stream.fileno())  # before the word that it is whole
            self.check()
            size, time = array.stat().st_size, array.stat().st_mtime_ns
            time = time // 10**9 * 10**9  # a whole second, which no write leaves behind soon after this one
            os.utime(array, ns=(time, time))
            os.replace(array, self.file)
        except (OSError, BiasEnsembleError):
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        stated = {"source": self.source, "sha256": digest.hexdigest(), "bytes": size, "notes": notes}
        write_json(self.file.with_suffix(".json"), stated | {"mtime_ns": self.file.stat().st_mtime_ns})

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def _mark(self, rows: range) -> Path:
        return self.folder / f"{rows.start}.json"

    def _lock(self, rows: range) -> FileLock:
        return FileLock(self._mark(rows).with_suffix(".lock"))

    def _opened(self, row: int = 0) -> BinaryIO:
        """The array so far, to write from a row on; made if there is none. It cannot be read: a network file system
        may write pages that were read back whole, over what another machine has since written to them."""
        stream = open(self.folder / "array.npy", "wb", opener=_keep_content)
        np.lib.format.write_array_header_1_0(
            stream, {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        )
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
        write_json(self._mark(rows), {"crc32": checksum, "notes": notes})

    def _add(self, rows: range, digest: Any, notes: dict[str, Any]) -> bool:
        """Adds a part to the hash and the notes of the array, if it is there and whole, which a crash may prevent."""
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


def _keep_content(file: str, flags: int) -> int:
    return os.open(file, flags & ~os.O_TRUNC, 0o666)


def hash_of_shape(shape: tuple[int, ...]) -> Any:
    """The hash that the content of an array of this shape is then added to."""
    return hashlib.sha256(str(tuple(shape)).encode())


def add_to_hash(digest: Any, stream: Any, end: int) -> Any:
    """Adds what comes next in the file, up to its byte `end`. It is read, not mapped."""
    while (place := stream.tell()) < end and (block := stream.read(min(_BYTES_AT_ONCE, end - place))):
        digest.update(block)
    return digest


def read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array whose content comes next."""
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype


def write_json(file: Path, stated: dict[str, Any]) -> None:
    """Writes the file whole."""
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(stated), encoding="utf-8")
