"""A local folder: what it holds decides how it is read; what can be meant in two ways is refused."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import ARCHIVES, PHOTOGRAPH_SUFFIXES, Tree, images, listed, look_into
from hf_biasensemble.data.reading.folders import ClassFolders, class_folders
from hf_biasensemble.data.reading.found import Found, as_dataset
from hf_biasensemble.data.reading.rows import naming_column
from hf_biasensemble.data.reading.splits import meant_by, split_column, split_names, use_of
from hf_biasensemble.data.reading.table_rows import read_rows, read_tables
from hf_biasensemble.data.reading.tables import is_binary_table, is_text_table, read_text_table
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5
_LABEL_WORDS = {"label", "labels", "class", "category", "target", "y", "dx", "diagnosis", "species", "breed"}


def read_folder(path: Path, args: DataArguments) -> Found:
    """A folder with images, tables or both."""
    tree, layout = look_into(path), args.layout
    metadata = [
        table
        for table in tree.tables
        if Path(table).stem.lower() == "metadata" and (layout == "table" or _names_images(tree, table, args))
    ]
    if layout == "folders" or not tree.tables:
        if layout == "folders" or tree.images:
            return _of_folders(tree, args)
        raise ValueError(f"expected images or tables in it, found {_content(tree)}")
    if metadata:
        return _of_metadata(tree, metadata, args)
    if not tree.images or layout == "table":
        return _of_tables(tree, tree.tables, args)
    refused = None
    try:
        folders = class_folders(tree, split_names(args).values())
    except BiasEnsembleError as error:
        refused = error
    if refused is None and len(folders.classes()) > 1:
        _refuse_other_labels(tree, folders, args)
        return _of_folders(tree, args)
    about = [table for table in tree.tables if _names_images(tree, table, args)]
    if refused and not about:
        raise BiasEnsembleError(f"{refused}; no column of {', '.join(tree.tables[:_NAMED])} names the images")
    if about and all(is_text_table(table) and _split_in(table.rpartition("/")[0], args) for table in about):
        return _of_metadata(tree, about, args)
    return _of_tables(tree, about or tree.tables, args)


# Class folders -------------------------------------------------------------------------------------------------------


def _of_folders(tree: Tree, args: DataArguments) -> Found:
    folders = class_folders(tree, split_names(args).values(), args.layout == "folders")
    data = {split or "train": as_dataset(rows) for split, rows in folders.tables(tree).items()}
    splits_from = folders.splits_from and f"the {folders.splits_from}"
    return Found("class folders", data, splits_from, "the names of folders", [*folders.notes, *_not_read(tree)])


def _refuse_other_labels(tree: Tree, folders: ClassFolders, args: DataArguments) -> None:
    """Refuses class folders beside a table that has other labels, or splits, for the same images."""
    classes = set(folders.classes())
    for table in filter(is_text_table, tree.tables):
        file = tree.root / table
        try:
            rows, _ = read_text_table(file)
        except BiasEnsembleError:
            continue  # it is named among what is not read
        column = naming_column(rows, tree)
        if column is None:
            continue
        found = f"class folders ({', '.join(sorted(classes)[:_NAMED])}) and {table}"
        if _split_of_file(table, args):
            raise BiasEnsembleError(
                f"{tree.root}: expected folders or tables to say what the classes are, found {found}, which names the "
                f"same images; take the tables with --layout table --image_column {column}, or the folders with "
                "--layout folders"
            )
        others = [name for name in rows.column_names if name != column]
        split = next((name for name in (args.split_column, split_column(others, None)) if name in others), None)
        values = {name: set(pc.unique(rows[name]).drop_null().to_pylist()) for name in others if name != split}
        if not split and any(some and some <= classes for some in values.values()):
            continue  # it repeats the folders
        usual = [name for name in values if name == args.label_column or name.lower() in _LABEL_WORDS]
        few = [name for name in values if 1 < len(values[name]) <= len(rows) / 2 and not _all_numbers(values[name])]
        label = next(iter(usual + few), None)
        if not split and label is None:
            continue
        named = f"--image_column {column}" + (f" --label_column {label}" if label else "")
        says = f"splits in its column {split}" if split else f"labels in its column {label}"
        raise BiasEnsembleError(
            f"{tree.root}: expected folders or a table to say what the classes are, found {found}, with {says}; take "
            f"the table with --dataset_name {file} {named}, or the folders with --layout folders"
        )


def _all_numbers(values: set[str]) -> bool:
    return all(value.replace(".", "", 1).lstrip("-").isdigit() for value in values)


def _not_read(tree: Tree, used: tuple[str, ...] = ()) -> list[str]:
    """Lines on tables and other files that are not read."""
    tables = [table for table in tree.tables if table not in used]
    notes = []
    if tables:
        more = f" and {len(tables) - _NAMED} more" if len(tables) > _NAMED else ""
        notes.append(f"not read: {', '.join(tables[:_NAMED])}{more}")
    others = tree.other_files()
    if others:
        notes.append(f"files that are not images by their names are left out: {listed(others)}")
    return notes + [f"not followed: {note}" for note in tree.notes]


def _content(tree: Tree) -> str:
    others = tree.other_files()
    if not others:
        return "nothing" if len(tree.folders) < 2 else "empty folders"
    suffixes = {suffix.lower() for suffix in others}
    if suffixes & ARCHIVES:
        return f"{listed(others)}; unpack the archive first"
    return listed(others) + ("; convert them to JPEG or PNG" if suffixes & PHOTOGRAPH_SUFFIXES else "")


# Tables --------------------------------------------------------------------------------------------------------------


def _names_images(tree: Tree, table: str, args: DataArguments) -> bool:
    """Whether a table is about the images in the folder."""
    if is_binary_table(table):
        return True
    rows, _ = read_text_table(tree.root / table)
    return bool({args.image_column, "file_name"} & {*rows.column_names}) or naming_column(rows, tree) is not None


def _of_metadata(tree: Tree, metadata: list[str], args: DataArguments) -> Found:
    """One table for all, or one in each split folder; a split folder without one may hold class folders."""
    places: dict[str, str] = {}
    for table in metadata:
        place = table.rpartition("/")[0]
        if place in places:
            raise _one_of(tree, "one table of each folder", places[place], table)
        places[place] = table
    outermost = {place: table for place, table in places.items() if not any(_is_above(o, place) for o in places)}
    used = tuple(outermost.values())
    files: dict[str | None, Path] = {table: tree.root / table for table in used}
    named = {place: _split_in(place, args) for place in outermost}
    if len(outermost) == 1 and not any(named.values()):
        found = read_rows(f"table {used[0]}", {None: files[used[0]]}, args, tree=tree)
    elif not all(named.values()):
        found = read_rows(f"tables {', '.join(used)}", files, args, together=True)
    else:
        counts = Counter(named.values())
        twice = [table for place, table in outermost.items() if counts[named[place]] > 1]
        if twice:
            raise BiasEnsembleError(
                f"{tree.root}: expected one table for each split, found {' and '.join(twice[:2])}; name one folder "
                "with --dataset_name"
            )
        by_split = {named[place]: files[table] for place, table in outermost.items()}
        found = read_rows(f"tables {', '.join(used)}", by_split, args)
        found.splits_from = "the names of folders"
        _add_class_folders(found, _without(tree, outermost), args)
    some = next(iter(found.data.values())).column_names
    if args.label_column not in some and "/" in used[0]:
        raise BiasEnsembleError(
            f"{tree.root}: expected a label column {args.label_column!r} in {used[0]}, found columns "
            f"{', '.join(some)}; name it with --label_column, or take the folders as classes with --layout folders"
        )
    found.notes += _not_read(tree, used)
    return found


def _add_class_folders(found: Found, others: Tree, args: DataArguments) -> None:
    """Adds the splits that are class folders to those that are tables."""
    if not others.images:
        return
    folders = class_folders(others, split_names(args).values())
    if not folders.splits_from:
        found.notes.append(f"not read: {images(sum(others.image_folders().values()))} in no folder with a table")
        return
    for split, rows in folders.tables(others).items():
        rows = rows.rename_columns([args.image_column, args.label_column])
        found.data[str(split)] = as_dataset(rows, args.image_column)
    in_folders = ", ".join(sorted({str(split) for split, _ in folders.place.values()}))
    found.labels_from = f"column {args.label_column}, and the names of folders in {in_folders}"
    found.layout += " and class folders"
    found.notes += folders.notes


def _one_of(tree: Tree, expected: str, one: str, other: str) -> BiasEnsembleError:
    return BiasEnsembleError(
        f"{tree.root}: expected {expected}, found {one} and {other}; name one: --dataset_name {tree.root / one}, or "
        f"--dataset_name {tree.root / other}"
    )


def _is_above(place: str, other: str) -> bool:
    return place != other and (place == "" or other.startswith(f"{place}/"))


def _split_in(place: str, args: DataArguments) -> str | None:
    """The folder in a path that means a split, if one does."""
    return next((part for part in place.split("/") if use_of(part) or part in split_names(args).values()), None)


def _without(tree: Tree, places: dict[str, str]) -> Tree:
    """The tree without what lies in these folders."""
    inside = [tuple(place.split("/")) for place in places]

    def is_outside(parts: tuple[str, ...]) -> bool:
        return not any(parts[: len(place)] == place for place in inside)

    kept = [(parts, run) for parts, run in tree.images if is_outside(parts)]
    return replace(tree, images=kept, tables=[], others={}, folders=[*filter(is_outside, tree.folders)], notes=[])


def _of_tables(tree: Tree, tables: list[str], args: DataArguments) -> Found:
    """Tables of any name: one, or several whose names say the splits."""
    text, binary = ([table for table in tables if kind(table)] for kind in (is_text_table, is_binary_table))
    if text and binary:
        raise _one_of(tree, "tables of one kind", text[0], binary[0])
    groups: dict[str, list[str]] = {}
    for table in tables:
        groups.setdefault(_split_of_file(table, args) or "", []).append(table)
    unnamed, named = groups.get("", []), [table for split, group in groups.items() if split for table in group]
    if unnamed and (named or len({_stem(table) for table in unnamed}) > 1):
        raise _one_of(tree, "one table, or tables called like splits", unnamed[0], (named or unnamed[1:])[0])
    several = [group for group in groups.values() if len(group) > 1]
    if text and several:
        raise _one_of(tree, "one table for each split", *several[0][:2])
    layout = f"table {tables[0]}" if len(tables) == 1 else f"tables {', '.join(tables[:_NAMED])}"
    files = {split or None: [tree.root / table for table in group] for split, group in groups.items()}
    found = read_tables(layout, files, args, tree=tree)
    if named:
        found.splits_from = "the names of files"
    found.notes += _not_read(tree, tuple(tables))
    return found


def _stem(table: str) -> str:
    """A file's name without suffix and number of part: `train-00000-of-00002.parquet` is `train`."""
    return re.sub(r"[-_.]?\d+(-of-\d+)?$", "", Path(table).stem)


def _split_of_file(table: str, args: DataArguments) -> str | None:
    """The split that a file's name means or, if it means none, a folder above it."""
    stem, names = _stem(table), split_names(args).values()
    if stem in names:
        return stem
    return next((part for part in (stem, *reversed(Path(table).parts[:-1])) if meant_by(part) or part in names), None)
