"""What the library keeps between runs: `hf-biasensemble cache` lists it, `hf-biasensemble cache --clear` removes it.

Nothing is lost by clearing but the time to make it anew. What another process is writing is left alone.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from hf_biasensemble.arguments import option, parse_arguments


@dataclass
class CacheArguments:
    """What to do with the cache."""

    clear: bool = option(False, "Remove the entries instead of only listing them.")


@dataclass(frozen=True)
class CacheEntry:
    """One thing in the cache.

    Attributes:
        path: File of a pixel store, manifest or feature store, or folder of the tables that `datasets` made of a local
            folder.
        kind: `pixels`, `manifest`, `features`, `unfinished` (of a run that is writing it, or was killed) or `tables`.
        source: The dataset that it was made from, as far as known.
        size: Bytes on disk.
    """

    path: Path
    kind: str
    source: str
    size: int


def main(argv: list[str] | None = None) -> int:
    """Lists the entries, or removes them."""
    (arguments,) = parse_arguments([CacheArguments], argv, description=__doc__, command="cache")
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
    """All entries, by kind and size."""
    from hf_biasensemble.data.store import feature_store, pixel_store
    from hf_biasensemble.data.store.cache import SOURCE_FILE, cache_folder, pixel_folder
    from hf_biasensemble.data.store.manifest import MANIFEST_SUFFIX, source_of_manifest
    from hf_biasensemble.internal.files import UNFINISHED_SUFFIX

    entries = []
    folders = (pixel_folder(), feature_store.feature_folder())
    for path in (path for folder in folders for path in folder.glob("*")):
        if path.suffix == pixel_store.STORE_SUFFIX:
            entries.append(CacheEntry(path, "pixels", pixel_store.source_of(path), path.stat().st_size))
        elif path.suffix == MANIFEST_SUFFIX:
            entries.append(CacheEntry(path, "manifest", source_of_manifest(path), path.stat().st_size))
        elif path.suffix == feature_store.STORE_SUFFIX:
            entries.append(CacheEntry(path, "features", "", path.stat().st_size))
        elif path.suffix in (UNFINISHED_SUFFIX, feature_store.PROGRESS_SUFFIX):
            entries.append(CacheEntry(path, "unfinished", "", path.stat().st_size))
    for folder in cache_folder().glob("*/"):
        if folder not in folders:
            note = folder / SOURCE_FILE
            source = note.read_text(encoding="utf-8") if note.exists() else ""
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            entries.append(CacheEntry(folder, "tables", source, size))
    return sorted(entries, key=lambda entry: (entry.kind, -entry.size))


def remove(entry: CacheEntry) -> bool:
    """Removes the entry, unless a process is writing it."""
    from hf_biasensemble.data.store.cache import lock_of

    if entry.kind == "tables":
        shutil.rmtree(entry.path, ignore_errors=True)
        return True
    try:
        with lock_of(entry.path).acquire(timeout=0):
            entry.path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
