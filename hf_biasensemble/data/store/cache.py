"""Where the library keeps what it can make anew: beside the cache of `datasets`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from filelock import FileLock, Timeout

SOURCE_FILE = "source.txt"


def cache_folder() -> Path:
    """`hf_biasensemble` in the cache of `datasets` (`HF_DATASETS_CACHE`)."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_biasensemble"


def pixel_folder() -> Path:
    """Where the pixel stores are."""
    return cache_folder() / "pixels"


def tables_folder(digest: str, source: str) -> Path:
    """A folder for the tables that `datasets` makes of a local folder; notes which one."""
    folder = cache_folder() / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SOURCE_FILE).write_text(source, encoding="utf-8")
    return folder


def lock_of(file: Path) -> FileLock:
    """Held by who writes this file of the cache, or removes it."""
    return FileLock(file.with_suffix(".lock"))


@contextmanager
def sole_maker(file: Path, waiting: str) -> Iterator[None]:
    """Of several processes that would make this file of the cache, one is in the block at a time. The others say that
    they are waiting, and wait for as long as it takes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_of(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
