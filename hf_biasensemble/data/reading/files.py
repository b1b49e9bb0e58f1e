"""What lies in a folder: its images, its tables and the rest, found without opening one of them."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from hf_biasensemble.internal.errors import BiasEnsembleError

Parts = tuple[str, ...]

# PIL only recognises the latter, or needs another program for them.
_NOT_DECODED = {".bufr", ".eps", ".ps", ".grib", ".mpg", ".mpeg", ".wmf", ".emf"}
IMAGE_SUFFIXES = {*ImageFolder.EXTENSIONS, ".avif"} - _NOT_DECODED
PHOTOGRAPH_SUFFIXES = {".heic", ".heif", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".jxl", ".svg"}
"""Image formats that people have and PIL does not read."""

TEXT_TABLES = {".csv", ".tsv", ".jsonl", ".json"}
BINARY_TABLES = {".parquet", ".arrow", ".feather"}
_NOT_DATA = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_NOT_NAMED = {"thumbs.db", "desktop.ini", "icon\r"}
_NAMES_AT_ONCE = 50_000


@dataclass
class Tree:
    """The content of a folder, by folder below it; paths are relative, and folders are tuples of names.

    Attributes:
        root: The folder.
        images: Runs of image files of one folder, in the order of all paths; the names are an array of text.
        tables: Paths of files that are tables by their names.
        others: By folder, how many files there are of each other suffix.
        folders: All folders, also those without files.
        notes: Links that lead nowhere or in a circle.
    """

    root: Path
    images: list[tuple[Parts, pa.Array]] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    others: dict[Parts, Counter[str]] = field(default_factory=dict)
    folders: list[Parts] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def image_folders(self) -> dict[Parts, int]:
        """How many images lie directly in each folder that has some."""
        counts: dict[Parts, int] = {}
        for parts, names in self.images:
            counts[parts] = counts.get(parts, 0) + len(names)
        return counts

    def first_image(self, parts: Parts) -> str:
        """The path of the first image directly in a folder."""
        names = next(names for folder, names in self.images if folder == parts)
        return "/".join((*parts, names[0].as_py()))

    def paths(self) -> pa.ChunkedArray:
        """The paths of all images, relative to the root."""
        chunks = [joined(parts, names) for parts, names in self.images]
        return pa.chunked_array(chunks, pa.string())


def joined(parts: Parts, names: pa.Array) -> pa.Array:
    """The paths of these files of one folder."""
    import pyarrow.compute as pc

    return pc.binary_join_element_wise("/".join(parts), names, "/") if parts else names


def suffix_of(file: str) -> str:
    """The suffix of a file's name in lower case, with its dot."""
    return os.path.splitext(file)[1].lower()


def look_into(root: Path) -> Tree:
    """Everything below a folder. Links are followed, but not in circles; hidden files and those that operating systems
    put there are passed over. A `Path` for each file would take a gigabyte for a million."""
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
        tree.notes.append(f"{'/'.join(parts)} (a link in a circle)")
        return
    tree.folders.append(parts)
    subfolders, files = set(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _NOT_DATA:
                continue
            entry.name.encode()
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if is_folder:
                subfolders.add(entry.name)
            elif entry.name.lower() not in _NOT_NAMED:
                files.append(entry.name)
    run: list[str] = []
    for name in sorted([*subfolders, *files]):
        if name in subfolders:
            _flush(run, parts, tree)
            _look(os.path.join(folder, name), (*parts, name), (*above, identity), tree)
        elif suffix_of(name) in IMAGE_SUFFIXES:
            run.append(name)
            if len(run) == _NAMES_AT_ONCE:
                _flush(run, parts, tree)
        elif suffix_of(name) in TEXT_TABLES | BINARY_TABLES:
            tree.tables.append("/".join((*parts, name)))
        elif os.path.islink(os.path.join(folder, name)) and not os.path.exists(os.path.join(folder, name)):
            tree.notes.append(f"{'/'.join((*parts, name))} (a link to nothing)")
        else:
            tree.others.setdefault(parts, Counter())[os.path.splitext(name)[1] or "without extension"] += 1
    _flush(run, parts, tree)


def _flush(run: list[str], parts: Parts, tree: Tree) -> None:
    if run:
        tree.images.append((parts, pa.array(run, pa.string())))
        run.clear()


def images(number: int) -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,} image{'' if number == 1 else 's'}"


def listed(counts: Counter[str], most: int = 5) -> str:
    """`4 .heic, 1 .txt`: the most frequent suffixes."""
    return ", ".join(f"{number:,} {suffix}" for suffix, number in counts.most_common(most))


def image_files(folder: Path) -> Iterator[str]:
    """The paths of all images in a folder, in order, as training finds them."""
    for parts, names in look_into(folder).images:
        for name in names.to_pylist():
            yield os.path.join(folder, *parts, name)
