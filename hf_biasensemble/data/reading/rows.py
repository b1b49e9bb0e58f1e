"""The rows of a table: which file each names, which split it is in, and what that leaves unclear."""

import os
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.data.reading.files import IMAGE_SUFFIXES, Tree, look_into, suffix_of
from hf_biasensemble.data.reading.found import paths_of, values_of
from hf_biasensemble.internal.errors import BiasEnsembleError

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
        `BiasEnsembleError`: If there is no such file for any row; says what may be wrong.
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
        f"{table}, column {column!r}: expected paths of image files, found no such file for any row; row {first} "
        f"would be {full[first].as_py()}; {_hint(path, tree, table, column)}"
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
        return f"there is {folder / similar[0].as_py()}, which differs in extension or case; correct the column"
    if plain != path:
        return "write / for the backslash"
    if suffix_of(name) not in IMAGE_SUFFIXES:
        return f"these are not names of image files; name the column of files with --image_column instead of {column}"
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


def repeated(data: dict[str, datasets.Dataset], image: str, label: str, where: str) -> list[str]:
    """What to say of files that several rows name.

    Raises:
        `BiasEnsembleError`: If they have different labels.
    """
    parts = {split: paths_of(rows, image) for split, rows in data.items()}
    every = pa.chunked_array([chunk for paths in parts.values() for chunk in paths.chunks], pa.string())
    counts = pc.value_counts(every.combine_chunks().drop_null())
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if not len(twice):
        return []
    seen: dict[str, tuple[str, int, object]] = {}
    across = 0
    for split, paths in parts.items():
        labels = values_of(data[split], label) if label in data[split].column_names else None
        for row in np.flatnonzero(pc.is_in(paths, value_set=twice).to_numpy(zero_copy_only=False)).tolist():
            path, of_row = paths[row].as_py(), None if labels is None else labels[row].as_py()
            before = seen.setdefault(path, (split, row, of_row))
            if before[2] != of_row:
                raise BiasEnsembleError(
                    f"{where}, split {split}, row {row}: expected one label for {path}, found {of_row!r}, and "
                    f"{before[2]!r} in split {before[0]}, row {before[1]}; remove one of the rows"
                )
            across += before[0] != split
    more = f", {across:,} of these in several splits" if across else ""
    return [f"{len(twice):,} image{'s are' if len(twice) > 1 else ' is'} listed in several rows{more}"]
