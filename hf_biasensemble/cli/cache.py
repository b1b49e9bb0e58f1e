"""List or remove decoded images, features and tables kept between runs: `hf-biasensemble cache --clear`.

Removed entries are recomputed when needed. Entries that another process is writing are kept.
"""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hf_biasensemble.arguments import option, parse_arguments


@dataclass
class CacheArguments:
    """Cache."""

    clear: bool = option(False, "Remove the entries instead of only listing them.")


@dataclass(frozen=True)
class CacheEntry:
    """A file of a store or manifest, or a folder of tables that `datasets` made of local files.

    Attributes:
        kind: `pixels`, `features`, `manifest`, `tables`, or `unfinished` (being written, or left by a killed process).
        source: The dataset, if known.
        size: Bytes on disk.
    """

    path: Path
    kind: str
    source: str
    size: int


def main(argv: list[str]) -> int:
    """Lists or removes the entries."""
    (arguments,) = parse_arguments([CacheArguments], argv, "cache", description=__doc__)
    from hf_biasensemble.data.store.cache import cache_folder

    entries = list_cache()
    for entry in entries:
        done = "" if not arguments.clear else "removed " if remove(entry) else "in use, left "
        print(f"{done}{entry.kind:<10} {entry.size / 1e6:>10,.1f} MB  {entry.path.name[:16]:<16}  {entry.source}")
    total = sum(entry.size for entry in entries) / 1e6
    print(f"{len(entries)} entries, {total:,.1f} MB, in {cache_folder()}")
    if entries and not arguments.clear:
        print("remove them with: hf-biasensemble cache --clear")
    return 0


def list_cache() -> list[CacheEntry]:
    """All entries, sorted by kind and size."""
    from hf_biasensemble.data.store.array_store import source_of
    from hf_biasensemble.data.store.cache import SOURCE_FILE, STORES, cache_folder
    from hf_biasensemble.data.store.content import MANIFEST_SUFFIX, source_of_manifest
    from hf_biasensemble.internal.files import UNFINISHED_SUFFIX

    entries = []
    for path in (path for kind in STORES for path in (cache_folder() / kind).glob("*")):
        size = _size_of(path)
        if path.suffix == MANIFEST_SUFFIX:
            entries.append(CacheEntry(path, "manifest", source_of_manifest(path), size))
        elif path.suffix == ".npy":
            entries.append(CacheEntry(path, path.parent.name, source_of(path), size))
        elif path.suffix == UNFINISHED_SUFFIX or (path.suffix == ".json" and not path.with_suffix(".npy").exists()):
            entries.append(CacheEntry(path, "unfinished", "", size))
    for folder in cache_folder().glob("*/"):
        if folder.name not in STORES:
            note = folder / SOURCE_FILE
            source = note.read_text(encoding="utf-8") if note.exists() else ""
            entries.append(CacheEntry(folder, "tables", source, _size_of(folder)))
    return sorted(entries, key=lambda entry: (entry.kind, -entry.size))


def _size_of(path: Path) -> int:
    """Bytes on disk of a file or folder. A file being written already has its full length, but not its blocks."""
    found = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sum(min(file.st_size, 512 * getattr(file, "st_blocks", file.st_size)) for file in found)


def remove(entry: CacheEntry) -> bool:
    """Removes the entry unless another process is writing it."""
    from hf_biasensemble.data.store.cache import lock_of

    locks = [FileLock(file) for file in entry.path.rglob("*.lock")]
    if entry.kind != "tables":
        locks.append(lock_of(entry.path))
    try:
        with ExitStack() as held:
            for lock in locks:
                held.enter_context(lock.acquire(timeout=0))
            if entry.path.is_dir():
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                entry.path.with_suffix(".json").unlink(missing_ok=True)  # a store without it does not count
                entry.path.unlink(missing_ok=True)
    except (Timeout, OSError):  # the system may refuse to delete open files
        return False
    return True
