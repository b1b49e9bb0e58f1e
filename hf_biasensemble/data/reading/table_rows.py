"""Reads the rows of tables: the file of each image, and its label by column or class folder."""

import os
import re
from contextlib import suppress
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import IMAGE_SUFFIXES, Tree, look_into, some_of, suffix_of
from hf_biasensemble.data.reading.folders import class_folders
from hf_biasensemble.data.reading.found import (
    Found,
    dtype_of,
    is_text,
    no_column,
    paths_of,
    text_of,
    values_of,
)
from hf_biasensemble.data.reading.splits import split_column, split_names
from hf_biasensemble.data.reading.tables import is_binary_table, open_tables
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5
_TRIED = 50
_EXTENSION = r"\.[^./]*$"


def read_tables(
    layout: str, tables: dict[str | None, list[Path]], args: DataArguments, tree: Tree | None = None
) -> Found:
    """Reads tables with their images, which are not opened, and their labels.

    `tables` has the files of each split (`None`: no split in their names), `tree` the folder they were found in.
    Without `tree`, the user named the table, and its paths may lead outside its folder.
    """
    found = Found(layout, {}, table=next(iter(tables.values()))[0])
    for split, files in tables.items():
        are_parts = all(is_binary_table(file.name) for file in files)
        pieces = [_read(some, args, tree, found) for some in ([files] if are_parts else [[file] for file in files])]
        found.data[split or "train"] = datasets.concatenate_datasets(pieces)
    found.notes += _repeated(found.data, args.image_column, args.label_column, layout)
    return found


def _read(files: list[Path], args: DataArguments, tree: Tree | None, found: Found) -> datasets.Dataset:
    """The rows of one table, with the paths of their images; adds notes to `found`."""
    image, label, file = args.image_column, args.label_column, files[0]
    rows, notes = open_tables(files, str((tree.root if tree else file).resolve()))
    found.notes += notes
    if tree and len(rows) == 0:
        raise ValueError(f"{', '.join(str(file.relative_to(tree.root)) for file in files)} holds no data")
    if args.feature_column and not is_binary_table(file.name):
        raise BiasEnsembleError(
            f"--feature_column {args.feature_column}: expected vectors in Parquet, Arrow, a folder of save_to_disk or "
            f"a dataset on the Hub, found {file}; save it with datasets.Dataset.to_parquet"
        )
    if image == "image" and image not in rows.column_names and "file_name" in rows.column_names:
        rows = rows.rename_column("file_name", image)
    if image not in rows.column_names and not args.feature_column:
        _refuse_without_images(rows, args, file, tree)
    if not is_text(rows, image):
        return rows
    for column in (name for name in (image, label) if is_text(rows, name)):
        broken = pc.fill_null(pc.match_substring(values_of(rows, column), "\n"), False)
        if pc.any(broken).as_py():
            raise BiasEnsembleError(
                f"{file}, row {pc.index(broken, True).as_py()}: expected a value of one line in column {column!r}, "
                "found a line break; check this row for an unclosed quote"
            )
    paths = _normalised(values_of(rows, image))
    if tree:
        _check_inside(paths, file)
    images = datasets.Dataset(pa.table({image: _located(paths, image, file, found.notes)}))
    columns = [images.cast_column(image, datasets.Image())]
    whole = _whole_numbers(rows)
    others = rows.remove_columns([image, *whole])
    columns += [others] if others.column_names else []
    columns += [datasets.Dataset(pa.table(whole))] if whole else []
    labels = _labels_of_folders(rows, paths, file, args, tree) if tree or label not in rows.column_names else None
    if labels is not None:
        found.labels_from = "the names of folders"
        columns.append(datasets.Dataset(pa.table({label: labels})))
    return datasets.concatenate_datasets(columns, axis=1)


def _whole_numbers(rows: datasets.Dataset) -> dict[str, pa.ChunkedArray]:
    """The columns of floats that are whole or null, as int64; pandas writes whole numbers with gaps as floats."""
    whole = {}
    for name in rows.column_names:
        if str(dtype_of(rows, name)).startswith("float"):
            with suppress(pa.ArrowException):
                whole[name] = values_of(rows, name).cast(pa.int64())
    return whole


def _refuse_without_images(rows: datasets.Dataset, args: DataArguments, file: Path, tree: Tree | None) -> None:
    if any(suffix_of(name) in IMAGE_SUFFIXES for name in rows.column_names):
        raise BiasEnsembleError(
            f"{file}: expected the names of columns in the first line, found {', '.join(rows.column_names)}; write "
            f"{args.image_column} and {args.label_column} above it"
        )
    column = naming_column(rows.with_format("arrow")[:], tree or look_into(file.parent))
    hint = f" {column}, whose values are names of images" if column else ""
    raise no_column(str(file), f"an image column {args.image_column!r}", rows, f"name it with --image_column{hint}")


def naming_column(table: pa.Table, tree: Tree) -> str | None:
    """The column whose first values name images in the folder, with or without extension; `None` if none does."""
    files = pa.chunked_array([names for _, names in tree.images], pa.string()).combine_chunks()
    for names in (files, pc.replace_substring_regex(files, _EXTENSION, "")):
        for column in table.column_names:
            if not pa.types.is_string(table[column].type):
                continue
            values = [value for value in table[column][:_TRIED].to_pylist() if value]
            words = pa.array({os.path.basename(value.replace("\\", "/")) for value in values}, pa.string())
            if len(words) and 2 * pc.sum(pc.is_in(words, value_set=names)).as_py() > len(words):
                return column
    return None


def _normalised(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The paths as text, without a leading `./`, and without `a/../`."""
    plain = pc.replace_substring_regex(paths.cast(pa.string()), r"^(\./+)+", "")
    if not pc.any(pc.match_substring(plain, "/../")).as_py():
        return plain
    texts = [os.path.normpath(path) if path and "/../" in path else path for path in plain.to_pylist()]
    return pa.chunked_array([texts], pa.string())


def _check_inside(paths: pa.ChunkedArray, table: Path) -> None:
    """Refuses URLs, and paths that lead out of the table's folder: a downloaded dataset must not read other files."""
    suspect = pc.match_substring_regex(
        paths, r"^(/|~|[A-Za-z]:[/\\]|[A-Za-z][A-Za-z0-9+.-]+://)|(^|[/\\])\.\.([/\\]|$)"
    )
    for row in np.flatnonzero(pc.fill_null(suspect, False).to_numpy(zero_copy_only=False)).tolist():
        path = paths[row].as_py()
        plain = os.path.normpath(path.replace("\\", "/"))
        if plain.startswith(("..", "/", "~")) or ":" in plain:
            raise BiasEnsembleError(
                f"{table}, row {row}: expected a file in {table.parent}, found {path} outside it; if this is "
                f"intended, pass the table itself as --dataset_name {table}"
            )


def _located(paths: pa.ChunkedArray, column: str, table: Path, notes: list[str]) -> pa.ChunkedArray:
    """The paths of the files: relative to the table's folder, or found below it by name without extension.

    Refuses a column that leads to no file in any row; missing files in some rows are reported when decoding.
    """
    folder = str(table.parent)
    start = "" if folder == "." else f"{folder}/"
    full = pc.if_else(pc.starts_with(paths, "/"), paths, pc.binary_join_element_wise(start, paths, ""))
    for chunk in full.chunks:
        if any(path and os.path.isfile(path) for path in chunk.to_pylist()):
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
    raise BiasEnsembleError(
        f"{table}, column {column!r}: expected paths of image files, found no such file for any row; row {first} "
        f"would be {full[first].as_py()}; {_advice(paths[first].as_py(), tree, table, column)}"
    )


def _by_stem(paths: pa.ChunkedArray, tree: Tree, column: str, table: Path) -> pa.ChunkedArray | None:
    """The files with these paths or names but for the extension, in any folder of the tree; `None` without a match."""
    files = tree.paths()
    if not len(files):
        return None
    without = pc.replace_substring_regex(files, _EXTENSION, "").combine_chunks()
    for names in (without, pc.replace_substring_regex(without, "^.*/", "")):
        places = pc.index_in(paths, names)
        if places.null_count == len(places):
            continue
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


def _advice(path: str, tree: Tree, table: Path, column: str) -> str:
    """How to fix a path that leads to no file."""
    plain, folder = path.replace("\\", "/"), table.parent
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", plain):
        return "download the images and write their paths into the column"
    if plain != path and (folder / plain).is_file():
        return f"write / for the backslash (there is {folder / plain})"
    files, name = tree.paths(), os.path.basename(plain)
    same_name = files.filter(pc.or_(pc.equal(files, name), pc.ends_with(files, f"/{name}")))
    if len(same_name):
        there = same_name[0].as_py()
        return f"perhaps that file is {folder / there}: paths are relative to the table's folder, so write {there}"
    above = next((up for up in list(folder.resolve().parents)[:2] if (up / plain).is_file()), None)
    if above:
        return f"that file is {above / plain}: paths are relative to the table's folder, so move it to {above}"
    stem = re.escape(os.path.splitext(name)[0])
    similar = files.filter(pc.match_substring_regex(files, rf"(^|/){stem}\.[^/]*$", ignore_case=True))
    if len(similar):
        return f"there is {folder / similar[0].as_py()}, which differs in extension or case; correct the column"
    if plain == path and suffix_of(name) not in IMAGE_SUFFIXES:
        return f"these are not names of image files; name the column of files with --image_column instead of {column}"
    return f"put the images there, or correct the paths{'' if plain == path else ' and write / for the backslash'}"


def _repeated(data: dict[str, datasets.Dataset], image: str, label: str, where: str) -> list[str]:
    """A note on images that several rows list; refuses different labels for one image."""
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
            path, value = paths[row].as_py(), None if labels is None else labels[row].as_py()
            first_split, first_row, first_value = seen.setdefault(path, (split, row, value))
            if first_value != value:
                raise BiasEnsembleError(
                    f"{where}, split {split}, row {row}: expected one label for {path}, found {value!r}, and "
                    f"{first_value!r} in split {first_split}, row {first_row}; remove one of the rows"
                )
            across += first_split != split
    more = f", {across:,} of these in several splits" if across else ""
    return [f"{len(twice):,} image{'s are' if len(twice) > 1 else ' is'} listed in several rows{more}"]


def _labels_of_folders(
    rows: datasets.Dataset, paths: pa.ChunkedArray, file: Path, args: DataArguments, tree: Tree | None
) -> pa.ChunkedArray | None:
    """Labels from the class folders of the files, if the table has no labels.

    Refuses labels that name other class folders than those of the files, and class folders beside a table whose
    columns may be labels of another name.
    """
    label, root = args.label_column, tree.root if tree else file.parent
    try:
        folders = class_folders(tree if tree and root == file.parent else look_into(file.parent), split_names(args))
    except BiasEnsembleError:
        return None
    if len(folders.classes()) < 2:
        return None
    inside = pc.replace_substring_regex(pc.fill_null(paths, ""), "/?[^/]*$", "")
    places = pc.index_in(inside, pa.array(["/".join(parts) for parts in folders.place], pa.string()))
    classes = pc.take(pa.array([name for _, name in folders.place.values()], pa.string()), places)
    if label not in rows.column_names:
        known = {args.image_column, split_column(rows.column_names, args.split_column)}
        known |= {args.bias_label_column or "bias_label", args.conflicting_column or "is_conflicting"}
        if set(rows.column_names) <= known or classes.null_count:
            return None if classes.null_count else classes
        advice = (
            f"name one with --label_column, or use the class folders ({some_of(folders.classes(), _NAMED)}) without "
            "the table with --layout folders"
        )
        raise no_column(str(file), f"a label column {label!r}", rows, advice)
    if not is_text(rows, label) and not isinstance(rows.features[label], datasets.ClassLabel):
        return None
    labels = text_of(rows, label)
    used, named = (set(pc.unique(some).to_pylist()) - {None} for some in (classes, labels))
    if used & named:
        other = pc.fill_null(pc.not_equal(classes, labels), False)
        row = pc.index(other, True).as_py()
        if row >= 0:
            raise BiasEnsembleError(
                f"{file}, row {row}: expected the label of the folder, {classes[row]}, found {labels[row]}; use the "
                f"table with --dataset_name {file}, or the folders with --dataset_name {root} --layout folders"
            )
    return None
