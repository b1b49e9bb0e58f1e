"""The folder of this library in the cache of `datasets`, and its locks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from filelock import FileLock, Timeout

SOURCE_FILE = "source.txt"
"""In a folder of tables: what they were made from."""

STORES = ("pixels", "features")
"""Folders of the cache that hold stores; the others hold tables."""


def cache_folder() -> Path:
    """`hf_biasensemble` in the cache of `datasets` (`HF_DATASETS_CACHE`)."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_biasensemble"


def lock_of(file: Path) -> FileLock:
    """The lock to hold while writing or removing a file of the cache."""
    return FileLock(file.with_suffix(".lock"))


@contextmanager
def sole_maker(file: Path, busy: str, meanwhile: Callable[[], None] = lambda: None) -> Iterator[OSError | None]:
    """Runs the block in one process at a time. The others print `busy`, call `meanwhile` and wait without a timeout.
    Yields the error if the lock cannot be created, as in a read-only folder."""
    lock, problem = lock_of(file), None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(busy, flush=True)
            meanwhile()
            lock.acquire()
    except OSError as error:
        problem = error
    try:
        yield problem
    finally:
        lock.release()
