"""A local folder or table: what it holds decides how it is read; what can be meant in two ways is refused."""

import re
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc

from hf_biasensemble.data.reading.files import PHOTOGRAPH_SUFFIXES, Tree, images, listed, look_into
from hf_biasensemble.data.reading.folders import ClassFolders, class_folders
from hf_biasensemble.data.reading.found import Found, as_dataset, with_paths
from hf_biasensemble.data.reading.names import ColumnNames, SplitNames
from hf_biasensemble.data.reading.rows import naming_column, split_column
from hf_biasensemble.data.reading.split_words import meant_by, use_of
from hf_biasensemble.data.reading.table_rows import of_rows
from hf_biasensemble.data.reading.tables import (
    is_binary_table,
    is_text_table,
    open_binary_tables,
    read_text_table,
)
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5
_LABEL_WORDS = {"label", "labels", "class", "category", "target", "y", "dx", "diagnosis", "species", "breed"}


def read_table(file: Path, columns: ColumnNames, names: SplitNames) -> Found:
    """A table that the user names: it may lead to files anywhere."""
    if is_binary_table(file.name):
        data = open_binary_tables([file], str(file.resolve()))
        notes: list[str] = []
        rows = with_paths(data, columns, file, True, notes)
        return Found(f"table {file.name}", {"train": rows}, notes=notes)
    return of_rows(f"table {file.name}", {None: file}, columns, names, trusted=True)


def read_folder(path: Path, columns: ColumnNames, names: SplitNames, layout: str) -> Found:
    """A folder with images, tables or both."""
    tree = look_into(path)
    metadata = [
        table
        for table in tree.tables
        if _is_metadata(table) and (layout == "table" or _names_images(tree, table, columns))
    ]
    if layout == "folders" or not tree.tables:
        if layout == "folders" or tree.images:
            return _of_folders(tree, names, layout == "folders")
        raise ValueError(f"expected images or tables in it, found {_content(tree)}")
    if metadata:
        return _of_metadata(tree, metadata, columns, names)
    if not tree.images or layout == "table":
        return _of_tables(tree, columns, names)
    refused = None
    try:
        folders = class_folders(tree, vars(names).values())
    except BiasEnsembleError as error:
        refused = error
    if refused is None and len(folders.classes()) > 1:
        _refuse_other_labels(tree, folders, columns)
        return _of_folders(tree, names)
    about = [table for table in tree.tables if _names_images(tree, table, columns)]
    if refused and not about:
        raise BiasEnsembleError(f"{refused}; no column of {', '.join(tree.tables[:_NAMED])} names the images")
    if about and all(is_text_table(table) and _split_in(table.rpartition("/")[0], names) for table in about):
        return _of_metadata(tree, about, columns, names)
    return _of_tables(tree, columns, names, about)


# Class folders -------------------------------------------------------------------------------------------------------


def _of_folders(tree: Tree, names: SplitNames, take_as_classes: bool = False) -> Found:
    folders = class_folders(tree, vars(names).values(), take_as_classes)
    data = {split or "train": as_dataset(rows, tree.root) for split, rows in folders.tables(tree).items()}
    return Found(
        "class folders",
        data,
        folders.splits_from and f"the {folders.splits_from}",
        "the names of folders",
        [*folders.notes, *_not_read(tree)],
    )


def _refuse_other_labels(tree: Tree, folders: ClassFolders, columns: ColumnNames) -> None:
    """Refuses class folders beside a table that has other labels, or splits, for the same images."""
    classes = set(folders.classes())
    for table in tree.tables:
        file = tree.root / table
        if is_binary_table(table):
            continue
        try:
            rows, _ = read_text_table(file)
        except BiasEnsembleError:
            continue  # it is named among what is not read
        column = naming_column(rows, tree)
        if column is None:
            continue
        others = [name for name in rows.column_names if name != column]
        values = {name: set(pc.unique(rows[name]).drop_null().to_pylist()) for name in others}
        split = next((name for name in (columns.split, split_column(others, None)) if name in values), None)
        if _split_of_file(table, SplitNames()):
            raise BiasEnsembleError(
                f"{tree.root}: expected folders or tables to say what the classes are, found class folders "
                f"({', '.join(sorted(classes)[:_NAMED])}) and {table}, which names the same images; take the tables "
                f"with --layout table --image_column {column}, or the folders with --layout folders"
            )
        if not split and any(found and found <= classes for found in values.values()):
            continue  # it repeats the folders
        others = [name for name in others if name != split]
        label = next((name for name in others if name == columns.label or name.lower() in _LABEL_WORDS), None)
        label = label or next(
            (name for name in others if 1 < len(values[name]) <= len(rows) / 2 and not _all_numbers(values[name])),
            None,
        )
        if not split and label is None:
            continue
        named = f"--image_column {column}" + (f" --label_column {label}" if label else "")
        says = f"splits in its column {split}" if split else f"labels in its column {label}"
        raise BiasEnsembleError(
            f"{tree.root}: expected folders or a table to say what the classes are, found class folders "
            f"({', '.join(sorted(classes)[:_NAMED])}) and {table}, with {says}; take the table with --dataset_name "
            f"{file} {named}, or the folders with --layout folders"
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
    others = sum(tree.others.values(), start=Counter[str]())
    if others:
        notes.append(f"files that are not images by their names are left out: {listed(others)}")
    return notes + [f"not followed: {note}" for note in tree.notes]


def _content(tree: Tree) -> str:
    others = sum(tree.others.values(), start=Counter[str]())
    if not others:
        return "nothing" if len(tree.folders) < 2 else "empty folders"
    archives = [suffix for suffix in others if suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")]
    photographs = any(suffix.lower() in PHOTOGRAPH_SUFFIXES for suffix in others)
    advice = "; unpack the archive first" if archives else "; convert them to JPEG or PNG" if photographs else ""
    return listed(others) + advice


# Tables --------------------------------------------------------------------------------------------------------------


def _is_metadata(table: str) -> bool:
    return Path(table).stem.lower() == "metadata"


def _names_images(tree: Tree, table: str, columns: ColumnNames) -> bool:
    """Whether a table is about the images in the folder."""
    if is_binary_table(table):
        return True
    rows, _ = read_text_table(tree.root / table)
    return bool({columns.image, "file_name"} & {*rows.column_names}) or naming_column(rows, tree) is not None


def _of_metadata(tree: Tree, metadata: list[str], columns: ColumnNames, names: SplitNames) -> Found:
    """One table for all, or one in each split folder; a split folder without one may hold class folders."""
    places: dict[str, str] = {}
    for table in metadata:
        place = table.rpartition("/")[0]
        if place in places:
            raise BiasEnsembleError(
                f"{tree.root}: expected one table of each folder, found {places[place]} and {table}; name one: "
                f"--dataset_name {tree.root / places[place]}, or --dataset_name {tree.root / table}"
            )
        places[place] = table
    outermost = {place: table for place, table in places.items() if not any(_is_above(o, place) for o in places)}
    used = tuple(outermost.values())
    named = {place: _split_in(place, names) for place in outermost}
    if len(outermost) == 1 and not any(named.values()):
        ((_, table),) = outermost.items()
        found = of_rows(f"table {table}", {None: tree.root / table}, columns, names, tree=tree)
    elif all(named.values()):
        if len(set(named.values())) < len(named):
            twice = [table for place, table in outermost.items() if list(named.values()).count(named[place]) > 1]
            raise BiasEnsembleError(
                f"{tree.root}: expected one table for each split, found {' and '.join(twice[:2])}; name one folder "
                "with --dataset_name"
            )
        tables = {named[place]: tree.root / table for place, table in outermost.items()}
        found = of_rows(f"tables {', '.join(used)}", tables, columns, names)
        found.splits_from = "the names of folders"
        others = _without(tree, tuple(outermost))
        folders = class_folders(others, vars(names).values()) if others.images else ClassFolders()
        if folders.splits_from:
            for split, rows in folders.tables(others).items():
                rows = rows.rename_columns([columns.image, columns.label])
                found.data[str(split)] = as_dataset(rows, tree.root, columns.image)
            in_folders = ", ".join(sorted({str(split) for split, _ in folders.place.values()}))
            found.labels_from = f"column {columns.label}, and the names of folders in {in_folders}"
            found.layout += " and class folders"
            found.notes += folders.notes
        elif others.images:
            count = sum(others.image_folders().values())
            found.notes.append(f"not read: {images(count)} in no folder with a table")
    else:
        found = of_rows(
            f"tables {', '.join(used)}", {table: tree.root / table for table in used}, columns, names, together=True
        )
    some = next(iter(found.data.values())).column_names
    if columns.label not in some and "/" in used[0]:
        raise BiasEnsembleError(
            f"{tree.root}: expected a label column {columns.label!r} in {used[0]}, found columns {', '.join(some)}; "
            "name it with --label_column, or take the folders as classes with --layout folders"
        )
    found.notes += _not_read(tree, used)
    return found


def _is_above(place: str, other: str) -> bool:
    return place != other and (place == "" or other.startswith(f"{place}/"))


def _split_in(place: str, names: SplitNames) -> str | None:
    """The folder in a path that means a split, if one does."""
    return next((part for part in place.split("/") if use_of(part) or part in vars(names).values()), None)


def _without(tree: Tree, places: tuple[str, ...]) -> Tree:
    """The tree without what lies in these folders."""
    inside = [tuple(place.split("/")) for place in places]
    kept = [(parts, run) for parts, run in tree.images if not any(parts[: len(place)] == place for place in inside)]
    folders = [parts for parts in tree.folders if not any(parts[: len(place)] == place for place in inside)]
    return Tree(tree.root, kept, folders=folders, others={})


def _of_tables(tree: Tree, columns: ColumnNames, names: SplitNames, about: list[str] | None = None) -> Found:
    """Tables of any name: one, or several whose names say the splits."""
    tables = about or tree.tables
    kinds = {is_text_table(table) for table in tables}
    if len(kinds) > 1:
        text = next(table for table in tables if is_text_table(table))
        binary = next(table for table in tables if is_binary_table(table))
        raise BiasEnsembleError(
            f"{tree.root}: expected tables of one kind, found {text} and {binary}; name one: --dataset_name "
            f"{tree.root / text}, or --dataset_name {tree.root / binary}"
        )
    groups: dict[str, list[str]] = {}
    for table in tables:
        groups.setdefault(_split_of_file(table, names) or "", []).append(table)
    unnamed = groups.get("", [])
    stems = {_stem(table) for table in unnamed}
    if unnamed and (len(groups) > 1 or len(stems) > 1):
        one, other = (unnamed + [table for group in groups.values() for table in group])[:2]
        if len(groups) > 1:
            other = next(table for split, group in groups.items() if split for table in group)
        raise BiasEnsembleError(
            f"{tree.root}: expected one table, or tables called like splits, found {one} and {other}; name one: "
            f"--dataset_name {tree.root / one}, or --dataset_name {tree.root / other}"
        )
    layout = f"table {tables[0]}" if len(tables) == 1 else f"tables {', '.join(tables[:_NAMED])}"
    used = tuple(tables)
    if not is_text_table(tables[0]):
        notes: list[str] = []
        data = {}
        for split, group in groups.items():
            files = [tree.root / table for table in group]
            rows = open_binary_tables(files, str(tree.root.resolve()))
            if len(rows) == 0:
                raise ValueError(f"{', '.join(group)} holds no data")
            data[split or "train"] = with_paths(rows, columns, files[0], False, notes)
        found = Found(layout, data, "the names of files" if groups.keys() - {""} else None, notes=notes)
    else:
        several = [group for group in groups.values() if len(group) > 1]
        if several:
            one, other = several[0][:2]
            raise BiasEnsembleError(
                f"{tree.root}: expected one table for each split, found {one} and {other}; name one: --dataset_name "
                f"{tree.root / one}, or --dataset_name {tree.root / other}"
            )
        files_by = {split or None: tree.root / group[0] for split, group in groups.items()}
        found = of_rows(layout, files_by, columns, names, tree=tree)
        if groups.keys() - {""}:
            found.splits_from = "the names of files"
    found.notes += _not_read(tree, used)
    return found


def _stem(table: str) -> str:
    """A file's name without suffix and number of part: `train-00000-of-00002.parquet` is `train`."""
    return re.sub(r"[-_.]?\d+(-of-\d+)?$", "", Path(table).stem)


def _split_of_file(table: str, names: SplitNames) -> str | None:
    """The split that a file's name means or, if it means none, a folder above it."""
    stem = _stem(table)
    if stem in vars(names).values():
        return stem
    for part in (stem, *reversed(Path(table).parts[:-1])):
        if meant_by(part) or part in vars(names).values():
            return part
    return None
