"""Reads a local folder as class folders or tables, by its content; ambiguous content is refused."""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import (
    ARCHIVES,
    PHOTOGRAPH_SUFFIXES,
    Parts,
    Tree,
    images,
    listed,
    look_into,
    some_of,
)
from hf_biasensemble.data.reading.folders import ClassFolders, class_folders
from hf_biasensemble.data.reading.found import Found, no_column, paths_of
from hf_biasensemble.data.reading.splits import meant_by, split_column, split_names, use_of
from hf_biasensemble.data.reading.table_rows import naming_column, read_tables
from hf_biasensemble.data.reading.tables import is_binary_table, is_text_table, read_text_table
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5
_LABEL_WORDS = {"label", "labels", "class", "category", "target", "y", "dx", "diagnosis", "species", "breed"}


def read_folder(path: Path, args: DataArguments) -> Found:
    """Reads a folder with images, tables or both."""
    tree, layout = look_into(path), args.layout
    if layout == "folders" or not tree.tables:
        if tree.images:
            return _of_folders(tree, args)
        raise ValueError(f"expected images{'' if layout == 'folders' else ' or tables'} in it, found {_content(tree)}")
    metadata = [
        table
        for table in tree.tables
        if Path(table).stem.lower() == "metadata" and (layout == "table" or _names_images(tree, table, args))
    ]
    if metadata:
        return _of_tables(tree, metadata, args, beside_images=True)
    if not tree.images or layout == "table":
        return _of_tables(tree, tree.tables, args)
    refused = None
    try:
        folders = class_folders(tree, split_names(args))
    except BiasEnsembleError as error:
        refused = error
    if refused is None and len(folders.classes()) > 1:
        _refuse_other_labels(tree, folders, args)
        return _of_folders(tree, args)
    about = [table for table in tree.tables if _names_images(tree, table, args)]
    if refused and not about:
        raise BiasEnsembleError(f"{refused}; no column of {', '.join(tree.tables[:_NAMED])} names the images")
    in_splits = about and all(is_text_table(table) and _split_of_folder(table, args) for table in about)
    return _of_tables(tree, about or tree.tables, args, beside_images=bool(in_splits))


def _of_folders(tree: Tree, args: DataArguments) -> Found:
    folders = class_folders(tree, split_names(args), args.layout == "folders")
    notes = [*folders.notes, *_not_read(tree)]
    return Found("class folders", folders.rows(tree), folders.splits_from, "the names of folders", notes)


def _refuse_other_labels(tree: Tree, folders: ClassFolders, args: DataArguments) -> None:
    """Refuses class folders beside a table with other labels, or splits, for the same images."""
    classes = set(folders.classes())
    for table in filter(is_text_table, tree.tables):
        file = tree.root / table
        try:
            rows, _ = read_text_table(file)
        except BiasEnsembleError:
            continue  # listed later as not read
        column = naming_column(rows, tree)
        if column is None:
            continue
        others = [name for name in rows.column_names if name != column]
        split = next((name for name in (args.split_column, split_column(others, None)) if name in others), None)
        values = {name: set(pc.unique(rows[name]).drop_null().to_pylist()) for name in others if name != split}
        usual = [name for name in values if name == args.label_column or name.lower() in _LABEL_WORDS]
        few = [name for name in values if 1 < len(values[name]) <= len(rows) / 2 and not _all_numbers(values[name])]
        label = next(iter(usual + few), None)
        repeats_folders = any(some and some <= classes for some in values.values())
        use = f"the table with --dataset_name {file}"
        if _split_of_file(table, args):
            content, use = "the images of a split", "the tables with --layout table"
        elif split:
            content = f"splits in its column {split}"
        elif label is None or repeats_folders:
            continue
        else:
            content = f"labels in its column {label}"
        raise BiasEnsembleError(
            f"{tree.root}: expected classes from either folders or tables, found class folders "
            f"({some_of(sorted(classes), _NAMED)}) and {table}, with {content}; use {use} --image_column {column}"
            f"{f' --label_column {label}' if label else ''}, or the folders with --layout folders"
        )


def _all_numbers(values: set[str]) -> bool:
    return all(value.replace(".", "", 1).lstrip("-").isdigit() for value in values)


def _not_read(tree: Tree, used: Collection[str] = ()) -> list[str]:
    """Notes on tables and other files that are not read."""
    tables = [table for table in tree.tables if table not in used]
    notes = []
    if tables:
        notes.append(f"not read: {some_of(tables, _NAMED)}")
    if others := tree.other_files():
        notes.append(f"files without an image extension are ignored: {listed(others)}")
    return notes + [f"not followed: {note}" for note in tree.notes]


def _content(tree: Tree) -> str:
    others = tree.other_files()
    if not others:
        return "nothing" if len(tree.folders) < 2 else "empty folders"
    suffixes = {suffix.lower() for suffix in others}
    if suffixes & ARCHIVES:
        return f"{listed(others)}; unpack the archive first"
    return listed(others) + ("; convert them to JPEG or PNG" if suffixes & PHOTOGRAPH_SUFFIXES else "")


def _names_images(tree: Tree, table: str, args: DataArguments) -> bool:
    """Whether a table lists images of the folder; assumed of Parquet and Arrow."""
    if is_binary_table(table):
        return True
    rows, _ = read_text_table(tree.root / table)
    return bool({args.image_column, "file_name"} & {*rows.column_names}) or naming_column(rows, tree) is not None


def _of_tables(tree: Tree, tables: list[str], args: DataArguments, beside_images: bool = False) -> Found:
    """Reads one table, or one per split. The splits are named by the tables or, `beside_images`, by their folders.

    `beside_images`, split folders without a table may be class folders, and tables in other folders form one table.
    """
    if beside_images:
        folders = {Path(table).parent for table in tables}
        tables = [table for table in tables if folders.isdisjoint(Path(table).parent.parents)]
    split_of = _split_of_folder if beside_images else _split_of_file
    by_split = _grouped(tables, lambda table: split_of(table, args))
    unnamed = by_split.get(None, [])
    named = [table for table in tables if table not in unnamed]
    one_each = by_split
    if beside_images and unnamed:
        by_split, one_each = {None: tables}, _grouped(tables, os.path.dirname)
    elif not beside_images:
        text, binary = ([table for table in tables if kind(table)] for kind in (is_text_table, is_binary_table))
        if text and binary:
            raise _one_of(tree, "tables of one kind", text[0], binary[0])
        if unnamed and (named or len({_stem(table) for table in unnamed}) > 1):
            raise _one_of(tree, "one table, or tables named after splits", unnamed[0], (named or unnamed[1:])[0])
        one_each = by_split if text else {}  # binary tables may come in parts
    for alike in one_each.values():
        if len(alike) > 1:
            raise _one_of(tree, "one table for each split or folder", *alike[:2])
    layout = f"table {tables[0]}" if len(tables) == 1 else f"tables {', '.join(tables[:_NAMED])}"
    files = {split: [tree.root / table for table in some] for split, some in by_split.items()}
    found = read_tables(layout, files, args, tree)
    if None not in by_split:
        found.splits_from = f"the names of {'folders' if beside_images else 'files'}"
        if beside_images:
            _add_class_folders(found, tree, tables, args)
    rows = next(iter(found.data.values()))
    if beside_images and args.label_column not in rows.column_names and "/" in tables[0]:
        advice = "name it with --label_column, or use the folders as classes with --layout folders"
        raise no_column(f"{tree.root}", f"a label column {args.label_column!r} in {tables[0]}", rows, advice)
    found.notes += [*_in_no_row(tree, found, args.image_column), *_not_read(tree, tables)]
    return found


def _grouped(tables: list[str], key: Callable[[str], str | None]) -> dict[str | None, list[str]]:
    groups: dict[str | None, list[str]] = {}
    for table in tables:
        groups.setdefault(key(table), []).append(table)
    return groups


def _add_class_folders(found: Found, tree: Tree, tables: list[str], args: DataArguments) -> None:
    """Adds the splits that consist of class folders, outside the folders of the tables."""
    with_table = {Path(table).parent.parts for table in tables}

    def is_outside(parts: Parts) -> bool:
        return with_table.isdisjoint(parts[:depth] for depth in range(len(parts) + 1))

    kept = [(parts, names) for parts, names in tree.images if is_outside(parts)]
    others = Tree(tree.root, kept, folders=list(filter(is_outside, tree.folders)))
    folders = class_folders(others, split_names(args))
    if not folders.splits_from:
        return
    found.data |= folders.rows(others, args.image_column, args.label_column)
    in_folders = ", ".join(sorted({str(split) for split, _ in folders.place.values()}))
    found.labels_from = f"column {args.label_column}, and the names of folders in {in_folders}"
    found.layout += " and class folders"
    found.notes += folders.notes


def _one_of(tree: Tree, expected: str, one: str, other: str) -> BiasEnsembleError:
    return BiasEnsembleError(
        f"{tree.root}: expected {expected}, found {one} and {other}; choose one with --dataset_name "
        f"{tree.root / one}, or --dataset_name {tree.root / other}"
    )


def _in_no_row(tree: Tree, found: Found, column: str) -> list[str]:
    """A note on images that no row lists."""
    named = [chunk for rows in found.data.values() for chunk in paths_of(rows, column).chunks]
    files, start = tree.paths(), "" if str(tree.root) == "." else f"{tree.root}/"
    is_named = pc.is_in(pc.binary_join_element_wise(start, files, ""), value_set=pa.chunked_array(named, pa.string()))
    absent = files.filter(pc.invert(is_named))
    return [f"not read: {images(len(absent))} that no row lists, such as {absent[0]}"] if len(absent) else []


def _stem(table: str) -> str:
    """The name of a file without suffix and number of its part: `train` for `train-00000-of-00002.parquet`."""
    return re.sub(r"[-_.]?\d+(-of-\d+)?$", "", Path(table).stem)


def _split_of_file(table: str, args: DataArguments) -> str | None:
    """The split in the name of a file or, failing that, in the name of a folder above it."""
    parts, names = (_stem(table), *reversed(Path(table).parts[:-1])), split_names(args)
    return next((part for part in parts if meant_by(part) or part in names), None)


def _split_of_folder(table: str, args: DataArguments) -> str | None:
    """The first folder in the path that has the name of a split."""
    return next((part for part in Path(table).parts[:-1] if use_of(part) or part in split_names(args)), None)
