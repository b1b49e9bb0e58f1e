"""The rows of a table: which file each names, which split it is in, and what that leaves unclear."""

import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.data.reading.files import IMAGE_SUFFIXES, Tree, look_into, suffix_of
from hf_biasensemble.data.reading.split_words import is_mark, use_of, use_of_value
from hf_biasensemble.internal.errors import BiasEnsembleError

NO_SPLITS, FROM_PATHS = "none", "paths"
"""What `--split_column` takes besides the name of a column."""

_TRIED = 50
_EXTENSION = r"\.[^./]*$"


def without_dot(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The paths without `./` at their start and `a/../`, as text."""
    plain = pc.replace_substring_regex(paths.cast(pa.string()), r"^(\./+)+", "")
    winding = pc.match_substring(plain, "/../")
    if not pc.any(winding).as_py():
        return plain
    texts = [os.path.normpath(path) if path and "/../" in path else path for path in plain.to_pylist()]
    return pa.chunked_array([texts], pa.string())


def check_inside(paths: pa.ChunkedArray, table: Path) -> None:
    """Refuses paths that lead out of the folder of a table that the folder itself brings, and addresses."""
    suspect = pc.match_substring_regex(
        paths, r"^(/|~|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]+://)|(^|[/\\])\.\.([/\\]|$)"
    )
    for row in np.flatnonzero(pc.fill_null(suspect, False).to_numpy(zero_copy_only=False)).tolist():
        path = paths[row].as_py()
        plain = os.path.normpath(path.replace("\\", "/"))
        if plain.startswith(("..", "/", "~")) or ":" in plain:
            raise BiasEnsembleError(
                f"{table}, row {row}: expected a file in {table.parent}, found {path} outside it; if that is meant, "
                f"name the table itself: --dataset_name {table}"
            )


def located(paths: pa.ChunkedArray, column: str, table: Path, notes: list[str]) -> pa.ChunkedArray:
    """The paths as they are on the disk: relative to the folder of the table, or found there by name without suffix.

    Raises:
        `BiasEnsembleError`: If there is no file of any row; says what may be wrong.
    """
    folder = str(table.parent)
    start = "" if folder == "." else f"{folder}/"
    full = pc.if_else(pc.starts_with(paths, "/"), paths, pc.binary_join_element_wise(start, paths, ""))
    for chunk in full.chunks:
        for path in chunk.to_pylist():
            if path and os.path.isfile(path):
                return full
    first = next((row for row, path in enumerate(paths.to_pylist()) if path), None)
    if first is None:
        raise BiasEnsembleError(
            f"{table}, column {column!r}: expected paths of images, found none; name another with --image_column"
        )
    tree = look_into(table.parent)
    found = _by_stem(paths, tree, column, table)
    if found is not None:
        notes.append(f"column {column}: names without extension, found among the files in {folder}/")
        return pc.if_else(found.is_valid(), pc.binary_join_element_wise(start, found, ""), full)
    path = paths[first].as_py()
    raise BiasEnsembleError(
        f"{table}, column {column!r}: expected paths of image files, found no file of any row; row {first} would be "
        f"{full[first].as_py()}; {_hint(path, tree, table, column)}"
    )


def _by_stem(paths: pa.ChunkedArray, tree: Tree, column: str, table: Path) -> pa.ChunkedArray | None:
    """The files that are called so but for their suffix, wherever they are below; `None` if there is none."""
    files = tree.paths()
    if not len(files):
        return None
    without = pc.replace_substring_regex(files, _EXTENSION, "")
    for names in (without, pc.replace_substring_regex(without, "^.*/", "")):
        places = pc.index_in(paths, names.combine_chunks())
        if places.null_count == len(places):
            continue
        names = names.combine_chunks()
        counts = pc.value_counts(names.filter(pc.is_in(names, value_set=paths.combine_chunks())))
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            name = twice[0]["values"].as_py()
            several = files.filter(pc.equal(names, name)).to_pylist()
            raise BiasEnsembleError(
                f"{table}, column {column!r}: expected one file for {name}, found {', '.join(several[:3])}; write the "
                "whole path of each file into the column"
            )
        return files.take(places)
    return None


def _hint(path: str, tree: Tree, table: Path, column: str) -> str:
    """What may be wrong with a path that leads to no file."""
    plain, folder = path.replace("\\", "/"), table.parent
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", plain):
        return "download the images and write their paths into the column"
    if plain != path and (folder / plain).is_file():
        return f"write / for the backslash (there is {folder / plain})"
    files, name = tree.paths(), os.path.basename(plain)
    at_end = files.filter(pc.or_(pc.equal(files, name), pc.ends_with(files, f"/{name}")))
    if len(at_end):
        there = folder / at_end[0].as_py()
        if not str(there).endswith(f"/{plain}"):
            return (
                f"a file of that name is {there}: write {at_end[0].as_py()}, since paths count from the table's folder"
            )
        start = str(there)[: -len(plain)]
        return (
            f"that file is {there}: paths count from the folder of the table, so move the table to {start}, or put "
            "the rest of the path in front"
        )
    above = [up for up in list(folder.resolve().parents)[:2] if (up / plain).is_file()]
    if above:
        return f"that file is {above[0] / plain}: paths count from the folder of the table, so move it to {above[0]}"
    stem = os.path.splitext(name)[0]
    similar = files.filter(pc.match_substring_regex(files, rf"(^|/){re.escape(stem)}\.[^/]*$", ignore_case=True))
    if len(similar):
        return f"there is {folder / similar[0].as_py()}, of another extension or case; correct the column"
    if plain != path:
        return "write / for the backslash"
    if suffix_of(name) not in IMAGE_SUFFIXES:
        return f"these are no names of images; name the column of files with --image_column instead of {column}"
    return "put the images there, or correct the paths"


def naming_column(table: pa.Table, tree: Tree) -> str | None:
    """The column whose first values name images in the folder, with or without extension; `None` if none does."""
    files = pa.chunked_array([names for _, names in tree.images], pa.string()).combine_chunks()
    by_stem = None
    for column in table.column_names:
        if not pa.types.is_string(table[column].type):
            continue
        values = [value for value in table[column][:_TRIED].to_pylist() if value]
        words = {os.path.basename(value.replace("\\", "/")) for value in values}
        if not words:
            continue
        values = pa.array(sorted(words))
        if 2 * pc.sum(pc.is_in(values, value_set=files)).as_py() > len(words):
            return column
        if by_stem is None:
            stems = pc.replace_substring_regex(files, _EXTENSION, "")
            by_stem = column if 2 * pc.sum(pc.is_in(values, value_set=stems)).as_py() > len(words) else None
    return by_stem


def split_column(names: list[str], asked: str | None) -> str:
    """The column of splits: the one that was asked for, or the one called `split` in any case."""
    return asked or next((name for name in names if name.lower() == "split"), "split")


def splits_of_column(values: pa.ChunkedArray, column: str, where: str) -> np.ndarray:
    """The split of each row, by a column of names or of 0, 1, 2; a name that means none is the split's own name."""
    text = values.cast(pa.string())
    if text.null_count:
        row = int(np.flatnonzero(text.is_null().to_numpy(zero_copy_only=False))[0])
        raise BiasEnsembleError(
            f"{where}: column {column!r}, row {row}: expected a split, found nothing; fill it in, or leave the column "
            f"alone with --split_column {NO_SPLITS}"
        )
    encoded = text.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if is_mark(column) and {"0", "1"} & set(names):  # 1 would be validation
        raise BiasEnsembleError(
            f"{where}: column {column!r}: expected names of splits, found {', '.join(names[:5])}; write train and "
            f"test into it, or leave it alone with --split_column {NO_SPLITS}"
        )
    numbers = [name for name in names if re.fullmatch(r"-?\d+(\.0)?", name)]
    unknown = [name for name in numbers if use_of_value(name) is None]
    if unknown:
        row = names.index(unknown[0])
        row = int(np.flatnonzero(encoded.indices.to_numpy() == row)[0])
        raise BiasEnsembleError(
            f"{where}: column {column!r}, row {row}: expected 0, 1, 2 (train, validation, test) or names of splits, "
            f"found {unknown[0]}; leave the column alone with --split_column {NO_SPLITS}"
        )
    meant = np.array([use_of_value(name) or name for name in names], dtype=object)
    return meant[encoded.indices.to_numpy()]


def splits_of_paths(
    paths: pa.ChunkedArray, labels: pa.ChunkedArray | None, split_names: Collection[str], where: str
) -> np.ndarray | None:
    """The split of each row, by the first folder in its path that means one; `None` if no path has such a folder.

    A folder is none if the labels of its images are its name: then it is a class that is called so.

    Raises:
        `BiasEnsembleError`: If some paths have one and others do not; names the first of these.
    """
    folders = pc.replace_substring_regex(pc.fill_null(paths, ""), "/?[^/]*$", "").combine_chunks().dictionary_encode()
    places = folders.dictionary.to_pylist()
    if all(place.startswith(("/", "..")) for place in places):  # where all of it lies says nothing
        common = os.path.commonpath(places)
        places = [os.path.relpath(place, common) for place in places]
    indices = folders.indices.to_numpy()
    classes = set() if labels is None else set(pc.unique(labels.cast(pa.string())).to_pylist())
    meant = []
    for folder in places:
        parts = [part for part in folder.split("/") if part not in classes]
        meant.append(next((use_of(part) or part for part in parts if use_of(part) or part in split_names), None))
    if not any(meant):
        return None
    if None in meant:
        row = int(np.flatnonzero(np.array([name is None for name in meant])[indices])[0])
        of = ", ".join(sorted({name for name in meant if name}))
        raise BiasEnsembleError(
            f"{where}, row {row}: expected a split in each path, as others have ({of}), found none in "
            f"{paths[row].as_py()}; remove the row, or take all rows together with --split_column {NO_SPLITS}"
        )
    return np.array(meant, dtype=object)[indices]


def repeated(parts: dict[str, pa.ChunkedArray], labels: dict[str, pa.ChunkedArray | None], where: str) -> list[str]:
    """What to say of files that several rows name.

    Raises:
        `BiasEnsembleError`: If they have different labels.
    """
    every = pa.chunked_array([chunk for paths in parts.values() for chunk in paths.chunks], pa.string())
    counts = pc.value_counts(every.combine_chunks().drop_null())
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if not len(twice):
        return []
    seen: dict[str, tuple[str, int, str | None]] = {}
    across = 0
    for split, paths in parts.items():
        of_split = labels[split]
        for row in np.flatnonzero(pc.is_in(paths, value_set=twice).to_numpy(zero_copy_only=False)).tolist():
            path, label = paths[row].as_py(), None if of_split is None else of_split[row].as_py()
            before = seen.setdefault(path, (split, row, label))
            if before[2] != label:
                raise BiasEnsembleError(
                    f"{where}, split {split}, row {row}: expected one label for {path}, found {label!r}, and "
                    f"{before[2]!r} in split {before[0]}, row {before[1]}; remove one of the rows"
                )
            across += before[0] != split
    more = f", {across:,} of these in several splits" if across else ""
    return [f"{len(twice):,} image{'s are' if len(twice) > 1 else ' is'} named by several rows{more}"]
