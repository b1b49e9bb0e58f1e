"""Hashes of the content of images, kept in a manifest so that unchanged images are not read again.

The manifest, a Parquet file beside the pixels, has the SHA-256 and a key for each image. The key contains path, size,
modification time, inode and ctime, which programs cannot set, of the image file or of the Arrow files that hold it.
Images in memory have no key and are read each time. So are files younger than two seconds, which could change within
one tick of the file system's clock.
"""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_biasensemble.data.decoding import encoded_image, image_progress
from hf_biasensemble.data.reading.found import paths_of
from hf_biasensemble.data.store.cache import cache_folder, sole_maker
from hf_biasensemble.internal.files import written_whole

MANIFEST_SUFFIX = ".manifest"

_TICK = 2_000_000_000  # nanoseconds, on the coarsest file systems
_ROWS_AT_ONCE = 128


def content_hashes(images: datasets.Dataset, source: str = "") -> np.ndarray:
    """SHA-256 of each image in the column `image`, uint8 (N, 32), or the name of the error if it is unreadable. One of
    several processes reads the images, the others wait. `source` names them in the cache list and the progress bar."""
    paths = paths_of(images, "image")
    tables = [table["filename"] for table in images.cache_files]
    ends = [end.as_py() for end in pc.min_max(paths).values()]
    folder = os.path.abspath(os.path.commonprefix([*tables, *filter(None, ends)]).rpartition("/")[0])
    digest = hashlib.sha256(f"{folder}\0{source}".encode()).hexdigest()
    file = cache_folder() / "pixels" / (digest[:40] + MANIFEST_SUFFIX)
    hashes = np.zeros((len(images), 32), dtype=np.uint8)

    def read(unknown: np.ndarray) -> None:
        with image_progress("Reading", source, len(unknown)) as bar, ThreadPoolExecutor() as pool:
            for start in range(0, len(unknown), _ROWS_AT_ONCE):
                rows = unknown[start : start + _ROWS_AT_ONCE]
                found = b"".join(pool.map(_hash_of_image, images[rows]["image"]))
                hashes[rows] = np.frombuffer(found, dtype=np.uint8).reshape(-1, 32)
                bar.update(len(rows))

    keys = _keys(paths, images._fingerprint, tables)
    unknown = _fill_in(hashes, keys, file)
    if keys.take(unknown).null_count == len(unknown):
        read(unknown)
        return hashes
    with sole_maker(file, f"{source}: waiting for another process that reads the same images"):
        keys = _keys(paths, images._fingerprint, tables)  # files may have changed meanwhile
        read(_fill_in(hashes, keys, file))
        content = pa.Array.from_buffers(pa.binary(32), len(hashes), [None, pa.py_buffer(hashes)])
        known = pa.table({"key": keys, "sha256": content}, metadata={"source": source}).filter(keys.is_valid())
        with suppress(OSError), written_whole(file) as unfinished:  # if the disk is full, the next run reads again
            pq.write_table(known, unfinished, use_dictionary=False)
    return hashes


def source_of_manifest(file: Path) -> str:
    """The `source` recorded in a manifest; empty if unreadable."""
    with suppress(OSError, pa.ArrowException, TypeError, KeyError):
        return pq.read_schema(file).metadata[b"source"].decode()
    return ""


def _keys(paths: pa.ChunkedArray, fingerprint: str, tables: list[str]) -> pa.ChunkedArray:
    """The current key of each image, or null."""
    now = time.time_ns()

    def record(file: str) -> str | None:
        try:
            found = os.stat(file)
        except OSError:
            return None
        if found.st_ctime_ns > now - _TICK:
            return None
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ino} {found.st_ctime_ns}"

    records = [record(table) for table in tables]
    table = f"{fingerprint} {records}" if records and None not in records else None

    def key(row: int, path: str | None) -> str | None:
        if path:
            state = record(path)
            return state and f"{path} {state}"
        return f"{table} {row}" if table else None

    keys, row = [], 0
    for some in paths.chunks:  # a million Python strings take hundreds of MB
        keys.append(pa.array([key(row + n, path) for n, path in enumerate(some.to_pylist())], pa.large_string()))
        row += len(some)
    return pa.chunked_array(keys, pa.large_string())


def _fill_in(hashes: np.ndarray, keys: pa.ChunkedArray, file: Path) -> np.ndarray:
    """Copies the hashes in the manifest into the array and returns the rows that are missing."""
    try:
        known = pq.read_table(file).combine_chunks()
        places = pc.index_in(keys, known["key"], skip_nulls=True)
        rows = np.flatnonzero(places.is_valid())
        content = known["sha256"].take(places.drop_null()).combine_chunks()
        hashes[rows] = np.frombuffer(content.buffers()[1], np.uint8, count=32 * len(rows)).reshape(-1, 32)
    except (OSError, pa.ArrowException, KeyError, ValueError):  # missing or damaged
        return np.arange(len(keys))
    return np.flatnonzero(places.is_null())


def _hash_of_image(record: dict | None) -> bytes:
    try:
        content = encoded_image(record)
    except OSError as error:
        return type(error).__name__.ljust(32).encode()
    return hashlib.sha256(content).digest() if content is not None else b"null".ljust(32)
