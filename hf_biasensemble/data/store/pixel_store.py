"""Decoded images on disk: written once by one process, read through a memory map by all.

A store is one file: the pixels (N, 3, S, S), then a footer, JSON that holds format version, name, shape, SHA-256 of
shape and pixels, and the rows that could not be read, then 48 bytes: SHA-256 of the footer, its length, and a mark.
Its name is a hash of all that the pixels depend on, above all of the content of the image files; their names and times
do not count. A whole store is given a time of modification that no clock shows: as long as it has that, nobody has
written to it, and it opens at once however large it is. With any other time, all of it is checked once more.
"""

import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import time
import warnings
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import torch
from PIL import features

from hf_biasensemble.data.decoding import MAX_IMAGE_PIXELS, decode_rows
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.store.cache import pixel_folder, sole_maker
from hf_biasensemble.data.store.manifest import content_hashes
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import UNFINISHED_SUFFIX, written_whole

FORMAT_VERSION = 2
"""Goes up when the file's layout or what `decode_image` makes of an image changes."""

STORE_SUFFIX = ".pixels"

_MARK = b"HFBEPIX\n"
_TAIL = struct.Struct("<32sQ8s")  # SHA-256 of the footer, its length, the mark
_UNTOUCHED = 946_684_800 * 1_000_000_000  # time of modification of a whole store: the first second of the year 2000
_BLOCK = 1 << 22  # bytes hashed at once
_SMALL = 1 << 28  # bytes of a store whose pages a process keeps: giving them back costs small batches a fifth of a ms
_READ_ALONE = 1 << 16  # bytes of an image from which on it is read by itself, not with what lies around it


class MappedPixels:
    """The pixels of a store, uint8 (N, 3, S, S); indexed by a tensor of rows, they give a tensor in memory.

    Pages of all but small stores are given back after each read, so that a process that reads one larger than its
    memory does not grow; the operating system still keeps them in its cache. Copies in other processes, also those
    that pickling makes, map the same file.

    Args:
        file (`Path`): A store that was checked.
        shape (`tuple[int, int, int, int]`): Of the pixels.
        digest (`str`): SHA-256 of shape and pixels, as the file's footer has it.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], digest: str):
        self.file = file
        self.shape = torch.Size(shape)
        self.digest = digest
        with open(file, "rb") as stream:
            # Read-only: a map that could be written to is counted as memory, which a large file exceeds.
            self._map = mmap.mmap(stream.fileno(), self.shape.numel(), access=mmap.ACCESS_READ)
        self._gives_back = self.shape.numel() > _SMALL and hasattr(mmap, "MADV_DONTNEED")
        self._reads_alone = self._gives_back and self.shape[1:].numel() >= _READ_ALONE
        if self._reads_alone:
            self._map.madvise(mmap.MADV_RANDOM)  # or megabytes around each image of a random batch are read as well
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nothing writes to it
            self._tensor = torch.frombuffer(self._map, dtype=torch.uint8).view(self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedPixels, (self.file, self.shape, self.digest)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """The pixels (n, 3, S, S) of these rows (int64)."""
        return self.index_select(0, rows)

    def index_select(self, dim: int, rows: torch.Tensor) -> torch.Tensor:
        """As of a tensor; `dim` is 0."""
        if self._reads_alone:
            each = self.shape[1:].numel()
            for row in rows.tolist():  # all at once and ahead, where a page that is missed would be waited for
                start = row * each // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, start, (row + 1) * each - start)
        pixels = self._tensor.index_select(dim, rows)
        if self._gives_back:
            self._map.madvise(mmap.MADV_DONTNEED)
        return pixels


def hash_of_shape(shape: tuple[int, ...]) -> Any:
    """The hash that pixels of this shape are then added to."""
    return hashlib.sha256(str(tuple(shape)).encode())


def digest_of_pixels(pixels: torch.Tensor | MappedPixels) -> str:
    """SHA-256 of shape and pixels, the same for pixels in memory and in a store, where it is not computed again."""
    if isinstance(pixels, MappedPixels):
        return pixels.digest
    digest = hash_of_shape(pixels.shape)
    digest.update(pixels.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def _digest_of_file(file: Path, shape: tuple[int, ...]) -> str:
    """The same of the pixels in a store. The file is read for it, and not through a map."""
    digest, remaining = hash_of_shape(shape), math.prod(shape)
    with open(file, "rb") as stream:
        while remaining and (block := stream.read(min(_BLOCK, remaining))):
            digest.update(block)
            remaining -= len(block)
    return digest.hexdigest()


def open_or_build(
    images: datasets.Dataset, geometry: Geometry, source: str = "", workers: int | None = None, verify: bool = False
) -> tuple[MappedPixels, dict[int, str]]:
    """The store of these images in this geometry; built first if there is none that passes the check.

    Of several processes that want the same store at once, one builds it and the others wait, however long.

    Args:
        images (`datasets.Dataset`): One column `image`, undecoded.
        geometry (`Geometry`): What becomes of an image of any size.
        source (`str`, *optional*): What the images are, for the list of stores and the progress bar.
        workers (`int`, *optional*): Decoding threads.
        verify (`bool`): Read a store that is there from end to end, and refuse it if it is damaged.

    Returns:
        The pixels, black where an image could not be read, and the reason for each such row.

    Raises:
        `BiasEnsembleError`: If the disk has no room, a store to verify is damaged, or images change meanwhile.
    """
    shape = (len(images), 3, geometry.stored_size, geometry.stored_size)
    file = pixel_folder() / (_name_of(images, geometry, source) + STORE_SUFFIX)
    try:
        return _open(file, shape, verify)
    except FileNotFoundError:
        pass
    except _UnusableStore as reason:
        if verify:
            raise BiasEnsembleError(
                f"--verify_pixels: expected decoded images as they were written, found that {file} {reason}; remove "
                "that file, and the images are decoded anew"
            ) from reason
    with sole_maker(file, f"{source}: waiting for another process that decodes the same images"):
        try:
            return _open(file, shape)  # another process may have been faster
        except FileNotFoundError:
            pass
        except _UnusableStore as reason:
            print(f"{source}: the pixel store {file} {reason}; decoding anew", flush=True)
        _write(file, images, geometry, shape, source, workers)
        if _name_of(images, geometry, source) != file.stem:
            file.unlink()
            raise BiasEnsembleError(
                f"{source}: expected image files that stay as they are, found that some changed while they were "
                "decoded; start again when they are complete"
            )
        return _open(file, shape)


def source_of(file: Path) -> str:
    """What the images of a store are, by its own word; nothing if its footer cannot be read."""
    try:
        with open(file, "rb") as stream:
            return _read_footer(stream)[0]["source"]
    except (OSError, _UnusableStore):
        return ""


class _UnusableStore(Exception):
    """Says what is wrong with the file."""


def _open(file: Path, shape: tuple[int, ...], verify: bool = False) -> tuple[MappedPixels, dict[int, str]]:
    with open(file, "rb") as stream:
        footer, size = _read_footer(stream)
    if footer["format_version"] != FORMAT_VERSION:
        raise _UnusableStore(f"has format {footer['format_version']}, not {FORMAT_VERSION}")
    if footer["name"] != file.stem or tuple(footer["shape"]) != shape or size != int(np.prod(shape)):
        raise _UnusableStore("holds other images")
    if verify or file.stat().st_mtime_ns != _UNTOUCHED:
        if _digest_of_file(file, shape) != footer["sha256"]:
            raise _UnusableStore("was altered: its checksum is not the one it states")
        with suppress(OSError):  # somebody else's file
            os.utime(file, ns=(time.time_ns(), _UNTOUCHED))  # copied or touched, but not altered
    pixels = MappedPixels(file, shape, footer["sha256"])
    return pixels, {int(row): reason for row, reason in footer["unreadable"].items()}


def _read_footer(stream: Any) -> tuple[dict[str, Any], int]:
    """The footer, and the number of bytes before it."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - _TAIL.size))
    tail = stream.read()
    digest, length, mark = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (b"", 0, b"")
    start = end - _TAIL.size - length
    if mark != _MARK or start < 0:
        raise _UnusableStore("is incomplete")
    stream.seek(start)
    content = stream.read(length)
    if hashlib.sha256(content).digest() != digest:
        raise _UnusableStore("was altered: its footer does not match its checksum")
    return json.loads(content), start


def _write(
    file: Path, images: datasets.Dataset, geometry: Geometry, shape: tuple[int, ...], source: str, workers: int | None
) -> None:
    needed, free = int(np.prod(shape)), shutil.disk_usage(file.parent).free
    if needed > free:
        raise BiasEnsembleError(
            f"expected {needed / 1e9:.1f} GB for the decoded images in {file.parent}, found {free / 1e9:.1f} GB free; "
            "set HF_DATASETS_CACHE to another disk, clear with: hf-biasensemble cache --clear, or raise "
            "--pixel_memory_limit if that much memory is there"
        )
    unreadable: dict[int, str] = {}
    digest = hash_of_shape(shape)
    try:
        with written_whole(file) as unfinished, open(unfinished, "wb") as stream:
            for chunk in decode_rows(images, geometry, unreadable, workers, f"Decoding {source}"):
                digest.update(chunk.data)
                stream.write(chunk.data)
            footer = {
                "format_version": FORMAT_VERSION,
                "name": file.stem,
                "shape": shape,
                "sha256": digest.hexdigest(),
                "unreadable": unreadable,
                "source": source,
            }
            content = json.dumps(footer).encode()
            stream.write(content + _TAIL.pack(hashlib.sha256(content).digest(), len(content), _MARK))
            stream.flush()
            os.fsync(stream.fileno())  # before the mark that it is whole
            os.utime(unfinished, ns=(time.time_ns(), _UNTOUCHED))
    except OSError as error:
        file.with_suffix(UNFINISHED_SUFFIX).unlink(missing_ok=True)
        raise BiasEnsembleError(
            f"the decoded images could not be written to {file}: {error}; set HF_DATASETS_CACHE to another disk"
        ) from error


def _name_of(images: datasets.Dataset, geometry: Geometry, source: str) -> str:
    """Hash of what the pixels depend on: content and order of the files, geometry, and the code that decodes."""
    decoders = {name: features.version(name) for name in ("jpg", "jpg_2000", "webp", "avif", "libtiff")}
    size = geometry.image_size
    # A number where images are squashed to it, as in stores from before there was another way.
    shown = size if geometry == Geometry(size) else [geometry.stored_size, *astuple(geometry)]
    settings = [FORMAT_VERSION, PIL.__version__, decoders, MAX_IMAGE_PIXELS, shown, len(images)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(content_hashes(images, source).data)
    return digest.hexdigest()[:40]
