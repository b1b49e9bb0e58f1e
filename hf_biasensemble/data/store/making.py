"""How the array of a store is made: in parts, by all processes that want it.

The process that holds the store's lock writes the array from its first part on. The others make parts from the last
one on, each under a lock of its own, and leave them in files, which the first process adds when it comes to them. A
lock ends with its process, so the part of a killed one is made again by whoever comes. The parts, and so the bytes of
the array, are the same whoever makes them.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from hf_biasensemble.data.decoding import ROWS_AT_ONCE, image_progress
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
class Making:
    """A store that is being made, in a folder beside it that is removed with its last part.

    Attributes:
        file: The `.npy` file of the store.
        shape: Of the array.
        dtype: Of the array.
        blocks: The array from one row to another.
        source: What it is made from, for messages.
        check: Called when the array is complete; if it raises, there is no store.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Blocks
    source: str
    check: Callable[[], None]

    @property
    def folder(self) -> Path:
        """Of the array so far (`array.npy`, `array.json`), and for each part the row that it begins with and
        `.lock`, `.part` and `.json`."""
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
        needed, free = math.prod(self.shape) * self.dtype.itemsize, shutil.disk_usage(self.file.parent).free
        there = sum(file.stat().st_size for file in self.folder.glob("*")) if self.folder.is_dir() else 0
        if needed - there > free:
            raise NotWrittenError(
                f"expected {needed / 1e9:.1f} GB for the {self.file.parent.name} of {self.source or 'the images'} in "
                f"{self.file.parent}, found {free / 1e9:.1f} GB free; {MORE_ROOM}"
            )

    def help(self) -> None:
        """Makes parts, from the last one on, until there is none that nobody has begun."""
        for rows in reversed(self.parts()):
            with suppress(Timeout, FileNotFoundError), self._lock(rows).acquire(timeout=0):
                done = _read_json(self.folder / "array.json").get("rows", 0)
                if done > rows.start or self.file.with_suffix(".json").exists():
                    return
                part, digest = self._part(rows), hashlib.sha256()
                notes: dict[Any, Any] = {}
                if not part.exists():
                    with written_whole(part) as unfinished:
                        with open(unfinished, "wb") as stream:
                            self._write(stream, rows, notes, digest)
                        write_json(part.with_suffix(".json"), {"sha256": digest.hexdigest(), "notes": notes})

    def finish(self) -> None:
        """Makes the array and all that goes with it, for the only process that is here. It begins where a killed one
        was, adds parts that others made, and waits for those that they are making.

        Raises:
            `OSError`, `BiasEnsembleError`: If it cannot be written, or a block or the check fails; nothing is left.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.with_suffix(".json").unlink(missing_ok=True)
        array, state = self.folder / "array.npy", self.folder / "array.json"
        try:
            with open(array, "rb+" if array.exists() else "wb+") as stream:
                done, notes, digest = self._resumed(stream, _read_json(state))
                with image_progress(_DOING[self.file.parent.name], self.source, self.shape[0], done) as bar:
                    for rows in self.parts():
                        if rows.start < done:
                            continue
                        with self._lock(rows):
                            if not self._add(stream, rows, notes, digest):
                                self._write(stream, rows, notes, digest, bar)
                            stream.flush()
                            write_json(state, {"rows": rows.stop, "sha256": digest.hexdigest(), "notes": notes})
                        self._part(rows).unlink(missing_ok=True)
                        bar.update(rows.stop - bar.n)
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

    def _part(self, rows: range) -> Path:
        return self.folder / f"{rows.start}.part"

    def _lock(self, rows: range) -> FileLock:
        return FileLock(self._part(rows).with_suffix(".lock"))

    def _resumed(self, stream: Any, state: dict[str, Any]) -> tuple[int, dict[str, Any], Any]:
        """Rows that are there, their notes and their hash; the stream stands behind them."""
        np.lib.format.write_array_header_1_0(
            stream, {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        )
        start, digest = stream.tell(), hash_of_shape(self.shape)
        if state:
            end = start + state["rows"] * math.prod(self.shape[1:]) * self.dtype.itemsize
            if add_to_hash(digest, stream, end).hexdigest() == state["sha256"]:  # what a crash left may not be
                stream.seek(end)
                stream.truncate()
                return state["rows"], state["notes"], digest
        stream.seek(start)
        stream.truncate()
        return 0, {}, hash_of_shape(self.shape)

    def _write(self, stream: Any, rows: range, notes: dict[str, Any], digest: Any, bar: Any = None) -> None:
        for block in self.blocks(rows, notes):
            content = np.ascontiguousarray(block, self.dtype)
            digest.update(content.data.cast("B"))
            stream.write(content.data)
            if bar is not None:
                bar.update(len(block))

    def _add(self, stream: Any, rows: range, notes: dict[str, Any], digest: Any) -> bool:
        """Adds a part that another process made, if there is one and it is whole."""
        part = self._part(rows)
        stated = _read_json(part.with_suffix(".json"))
        if not part.exists() or not stated:
            return False
        content = part.read_bytes()
        if hashlib.sha256(content).hexdigest() != stated["sha256"]:
            return False
        digest.update(content)
        stream.write(content)
        notes |= stated["notes"]
        return True


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


def _read_json(file: Path) -> dict[str, Any]:
    """Its content; nothing if it is not there or cannot be read."""
    with suppress(OSError, ValueError):
        return json.loads(file.read_text(encoding="utf-8"))
    return {}
