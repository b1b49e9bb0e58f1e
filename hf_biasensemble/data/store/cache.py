"""Where the library keeps what it can make again: beside the cache of `datasets`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from filelock import FileLock, Timeout

SOURCE_FILE = "source.txt"
"""In a folder of tables: what they were made from."""

STORES = ("pixels", "features")
"""Folders of the cache that hold stores; all others hold tables."""


def cache_folder() -> Path:
    """`hf_biasensemble` in the cache of `datasets` (`HF_DATASETS_CACHE`)."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_biasensemble"


def lock_of(file: Path) -> FileLock:
    """Held by whoever writes this file of the cache, or removes it."""
    return FileLock(file.with_suffix(".lock"))


@contextmanager
def sole_maker(file: Path, busy: str, meanwhile: Callable[[], None] = lambda: None) -> Iterator[OSError | None]:
    """Lets one process at a time into the block, of several that would make this file of the cache. The others print
    `busy`, do what is to be done `meanwhile`, and wait for as long as it takes. Yields why there is no lock where none
    can be had, as in a read-only folder."""
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
