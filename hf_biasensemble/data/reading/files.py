"""Lists the images, tables and other files in a folder, without opening them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from hf_biasensemble.internal.errors import BiasEnsembleError

Parts = tuple[str, ...]

# PIL recognises these formats but needs other programs to decode them.
_NOT_DECODED = {".bufr", ".eps", ".ps", ".grib", ".mpg", ".mpeg", ".wmf", ".emf"}
IMAGE_SUFFIXES = {*ImageFolder.EXTENSIONS, ".avif"} - _NOT_DECODED
PHOTOGRAPH_SUFFIXES = {".heic", ".heif", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".jxl", ".svg"}
"""Common image formats that PIL cannot read."""

ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"}
TEXT_TABLES = {".csv", ".tsv", ".jsonl", ".json"}
BINARY_TABLES = {".parquet", ".arrow", ".feather"}
_IGNORED = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_IGNORED_FILES = {"thumbs.db", "desktop.ini", "icon\r"}  # in any case; a folder of such a name may be a class


@dataclass
class Tree:
    """The content of a folder. Paths are relative to `root`, and folders are tuples of names."""

    root: Path
    images: list[tuple[Parts, pa.Array]] = field(default_factory=list)  # a folder and names in it, sorted by path
    tables: list[str] = field(default_factory=list)  # paths of files with the suffix of a table
    others: dict[Parts, Counter[str]] = field(default_factory=dict)  # other files, counted by folder and suffix
    folders: list[Parts] = field(default_factory=list)  # including empty ones
    notes: list[str] = field(default_factory=list)  # broken and circular links

    def paths(self) -> pa.ChunkedArray:
        """The paths of all images, relative to the root."""
        return pa.chunked_array([joined(parts, names) for parts, names in self.images], pa.string())

    def other_files(self, folder: Parts = ()) -> Counter[str]:
        """The number of other files in the folder, at any depth, by suffix."""
        found = (counts for parts, counts in self.others.items() if parts[: len(folder)] == folder)
        return sum(found, start=Counter[str]())

    def has_table(self, folder: Parts) -> bool:
        """Whether the folder contains a table, at any depth."""
        return any(table.startswith("/".join(folder) + "/") for table in self.tables)


def joined(parts: Parts, names: pa.Array) -> pa.Array:
    """The paths of files in one folder."""
    return pc.binary_join_element_wise("/".join(parts), names, "/") if parts else names


def suffix_of(file: str) -> str:
    """The suffix of a file name in lower case, with its dot."""
    return os.path.splitext(file)[1].lower()


def look_into(root: Path) -> Tree:
    """Lists everything below a folder, except hidden files and those of the operating system. Follows links.

    File names stay in Arrow arrays, since a million `Path` objects take a gigabyte.
    """
    tree = Tree(root)
    try:
        _look(str(root), (), (), tree)
    except UnicodeEncodeError as error:
        raise BiasEnsembleError(
            f"{root}: expected names of files in UTF-8, found {error.object!a}; rename it"
        ) from error
    return tree


def _look(folder: str, parts: Parts, above: tuple[tuple[int, int], ...], tree: Tree) -> None:
    found = os.stat(folder)
    identity = (found.st_dev, found.st_ino)
    if identity in above:
        tree.notes.append(f"{'/'.join(parts)} (a circular link)")
        return
    tree.folders.append(parts)
    subfolders, names = set(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _IGNORED:
                continue
            entry.name.encode()
            with suppress(OSError):  # raised for a link to itself
                if entry.is_dir():
                    subfolders.add(entry.name)
            if entry.name in subfolders or entry.name.lower() not in _IGNORED_FILES:
                names.append(entry.name)

    def is_image(name: str) -> bool:
        return name not in subfolders and suffix_of(name) in IMAGE_SUFFIXES

    for are_images, run in groupby(sorted(names), is_image):
        if are_images:
            tree.images.append((parts, pa.array(run, pa.string())))
            continue
        for name in run:
            path, relative = os.path.join(folder, name), (*parts, name)
            if name in subfolders:
                _look(path, relative, (*above, identity), tree)
            elif suffix_of(name) in TEXT_TABLES | BINARY_TABLES:
                tree.tables.append("/".join(relative))
            elif os.path.islink(path) and not os.path.exists(path):
                tree.notes.append(f"{'/'.join(relative)} (a broken link)")
            else:
                tree.others.setdefault(parts, Counter())[os.path.splitext(name)[1] or "without extension"] += 1


def images(number: int) -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,} image{'' if number == 1 else 's'}"


def some_of(names: Sequence[str], most: int = 10) -> str:
    """`ant, bee and 8 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(counts: Counter[str]) -> str:
    """`4 .heic, 1 .txt`: the most frequent suffixes."""
    return ", ".join(f"{number:,} {suffix}" for suffix, number in counts.most_common(5))


def image_files(folder: Path) -> Iterator[str]:
    """The paths of all images in a folder, in order, as found for training."""
    for parts, names in look_into(folder).images:
        for name in names.to_pylist():
            yield os.path.join(folder, *parts, name)
