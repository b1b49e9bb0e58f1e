"""A local folder or table: what it holds decides how it is read; what can be meant in two ways is refused."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.data.reading.files import Tree, listed, look_into
from hf_biasensemble.data.reading.folders import ClassFolders, class_folders
from hf_biasensemble.data.reading.names import ColumnNames, SplitNames
from hf_biasensemble.data.reading.rows import (
    FROM_PATHS,
    NO_SPLITS,
    check_inside,
    located,
    naming_column,
    repeated,
    splits_of_column,
    splits_of_paths,
    without_dot,
)
from hf_biasensemble.data.reading.split_words import meant_by, use_of
from hf_biasensemble.data.reading.tables import (
    is_binary_table,
    is_text_table,
    open_binary_tables,
    read_text_table,
    typed_as_text,
)
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5
_LABEL_WORDS = {"label", "labels", "class", "category", "target", "y", "dx", "diagnosis", "species", "breed"}


@dataclass
class Found:
    """What was found under a name: rows by split, as far as the data themselves name splits."""

    layout: str
    data: dict[str, datasets.Dataset]
    splits_from: str | None = None
    labels_from: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.splits_from is None and len(self.data) > 1:
            self.splits_from = "the names of its splits"


def read_table(file: Path, columns: ColumnNames, names: SplitNames) -> Found:
    """A table that the user names: it may lead to files anywhere."""
    if is_binary_table(file.name):
        data = open_binary_tables([file], str(file.resolve()))
        notes: list[str] = []
        rows = _with_paths(data, columns, file, True, notes)
        return Found(f"table {file.name}", {"train": rows}, notes=notes)
    return _of_rows(f"table {file.name}", {None: file}, columns, names, trusted=True)


def read_folder(path: Path, columns: ColumnNames, names: SplitNames, layout: str) -> Found:
    """A folder with images, tables or both."""
    tree = look_into(path)
    metadata = [table for table in tree.tables if _is_metadata(table)]
    if layout == "folders" or not tree.tables:
        if layout == "folders" or tree.images:
            return _of_folders(tree, names, layout == "folders")
        raise ValueError(f"expected images or tables in it, found {_content(tree)}")
    if metadata:
        return _of_metadata(tree, metadata, columns, names)
    if not tree.images or layout == "table":
        return _of_tables(tree, columns, names)
    try:
        folders = class_folders(tree, vars(names).values())
    except BiasEnsembleError:
        about = [table for table in tree.tables if _names_images(tree, table, columns)]
        if not about:
            raise
        return _of_tables(tree, columns, names, about)
    if len(folders.classes()) < 2:
        return _of_tables(tree, columns, names)
    _refuse_other_labels(tree, folders, columns)
    return _of_folders(tree, names)


# Class folders -------------------------------------------------------------------------------------------------------


def _of_folders(tree: Tree, names: SplitNames, take_as_classes: bool = False) -> Found:
    folders = class_folders(tree, vars(names).values(), take_as_classes)
    data = {split or "train": _dataset(rows, tree.root) for split, rows in folders.tables(tree).items()}
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
        split = next((name for name in (columns.split, "split") if name in values), None)
        if _split_of_file(table, SplitNames()):
            raise BiasEnsembleError(
                f"{tree.root}: expected folders or tables to say what the classes are, found class folders "
                f"({', '.join(sorted(classes)[:_NAMED])}) and {table}, which names the same images; take the tables "
                f"with --layout table --image_column {column}, or the folders with --layout folders"
            )
        if not split and any(found and found <= classes for found in values.values()):
            continue  # it repeats the folders
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
    return listed(others) + ("; unpack the archive first" if archives else "")


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
        found = _of_rows(f"table {table}", {None: tree.root / table}, columns, names, tree=tree)
    elif all(named.values()):
        if len(set(named.values())) < len(named):
            twice = [table for place, table in outermost.items() if list(named.values()).count(named[place]) > 1]
            raise BiasEnsembleError(
                f"{tree.root}: expected one table for each split, found {' and '.join(twice[:2])}; name one folder "
                "with --dataset_name"
            )
        tables = {named[place]: tree.root / table for place, table in outermost.items()}
        found = _of_rows(f"tables {', '.join(used)}", tables, columns, names)
        found.splits_from = "the names of folders"
        others = _without(tree, tuple(outermost))
        folders = class_folders(others, vars(names).values()) if others.images else ClassFolders()
        if folders.splits_from:
            for split, rows in folders.tables(others).items():
                rows = rows.rename_columns([columns.image, columns.label])
                found.data[str(split)] = _dataset(rows, tree.root, columns.image)
            in_folders = ", ".join(sorted({str(split) for split, _ in folders.place.values()}))
            found.labels_from = f"column {columns.label}, and the names of folders in {in_folders}"
            found.layout += " and class folders"
            found.notes += folders.notes
        elif others.images:
            count = sum(others.image_folders().values())
            found.notes.append(f"not read: {count:,} images in no folder with a table")
    else:
        found = _of_rows(
            f"tables {', '.join(used)}", {table: tree.root / table for table in used}, columns, names, together=True
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
            data[split or "train"] = _with_paths(rows, columns, files[0], False, notes)
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
        found = _of_rows(layout, files_by, columns, names, tree=tree)
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


def _of_rows(
    layout: str,
    tables: dict[str | None, Path],
    columns: ColumnNames,
    names: SplitNames,
    trusted: bool = False,
    tree: Tree | None = None,
    together: bool = False,
) -> Found:
    """Tables of text: the images that the rows name, and their splits."""
    notes: list[str] = []
    parts: dict[str | None, pa.Table] = {}
    labels_from = None
    for split, file in tables.items():
        rows, said = (typed_as_text(file), []) if is_binary_table(file.name) else read_text_table(file)
        notes += said
        rows = _with_image_column(rows, columns, file, tree)
        paths = without_dot(rows[columns.image])
        if not trusted:
            check_inside(paths, file)
        full = located(paths, columns.image, file, notes)
        if columns.label not in rows.column_names:
            rows, labels_from = _with_folder_labels(rows, paths, columns, file, names)
        elif tree is not None and not trusted:
            _refuse_contradiction(rows, paths, columns, file, tree, names)
        parts[split] = rows.set_column(rows.column_names.index(columns.image), columns.image, full)
    splits_from = None
    if together:
        parts = {None: pa.concat_tables(parts.values(), promote_options="default")}
    if list(parts) == [None]:
        rows = parts[None]
        by_column = columns.split or "split"
        has_column = by_column in rows.column_names and columns.split not in (NO_SPLITS, FROM_PATHS)
        if columns.split != NO_SPLITS:
            paths = _relative(rows[columns.image], next(iter(tables.values())).parent)
            labels = _column(rows, columns.label)
            where = str(next(iter(tables.values())))
            found = None
            if not columns.split or columns.split == FROM_PATHS:
                found = splits_of_paths(paths, labels, vars(names).values(), where) if not has_column else None
            if has_column and not columns.split:
                _refuse_other_splits(rows, by_column, paths, labels, names, where)
            if found is not None:
                kinds = dict.fromkeys(found.tolist())
                parts = {str(split): rows.take(np.flatnonzero(found == split)) for split in kinds}
                splits_from = "the folders in its paths"
    of_split = {split or "train": rows for split, rows in parts.items()}
    notes += repeated(
        {split: rows[columns.image] for split, rows in of_split.items()},
        {split: _column(rows, columns.label) for split, rows in of_split.items()},
    )
    if tree is not None and tree.images:
        notes += _in_no_row(tree, [rows[columns.image] for rows in of_split.values()])
    data = {split: _dataset(rows, None, columns.image) for split, rows in of_split.items()}
    return Found(layout, data, splits_from, labels_from, notes)


def _in_no_row(tree: Tree, paths: list[pa.ChunkedArray]) -> list[str]:
    """A line on images in the folder that the table does not name."""
    named = pc.unique(pa.chunked_array([chunk for each in paths for chunk in each.chunks], pa.string()))
    files = tree.paths()
    start = "" if str(tree.root) == "." else f"{tree.root}/"
    absent = files.filter(pc.invert(pc.is_in(pc.binary_join_element_wise(start, files, ""), value_set=named)))
    if not len(absent):
        return []
    return [f"not read: {len(absent):,} images that no row names, such as {absent[0].as_py()}"]


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray | None:
    return rows[name] if name in rows.column_names else None


def _relative(paths: pa.ChunkedArray, folder: Path) -> pa.ChunkedArray:
    """The paths without the folder at their start: its own name says nothing of splits."""
    start = "" if str(folder) == "." else f"{folder}/"
    return pc.if_else(pc.starts_with(paths, start), pc.utf8_slice_codeunits(paths, len(start)), paths)


def _refuse_other_splits(
    rows: pa.Table,
    column: str,
    paths: pa.ChunkedArray,
    labels: pa.ChunkedArray | None,
    names: SplitNames,
    where: str,
) -> None:
    """Refuses a column of splits that says something else than the folders in the paths."""
    try:
        by_paths = splits_of_paths(paths, labels, vars(names).values(), where)
    except BiasEnsembleError:
        return
    if by_paths is None:
        return
    by_column = splits_of_column(rows[column], column, where)
    different = np.flatnonzero(by_paths != by_column)
    if len(different):
        row = int(different[0])
        raise BiasEnsembleError(
            f"{where}, row {row}: expected the column {column!r} and the folder in the path to say the same split, "
            f"found {by_column[row]} and {by_paths[row]}; take the column with --split_column {column}, or the "
            f"folders with --split_column {FROM_PATHS}"
        )


def _with_image_column(rows: pa.Table, columns: ColumnNames, file: Path, tree: Tree | None) -> pa.Table:
    """The rows with the column of paths under the name that was asked for."""
    if columns.image in rows.column_names:
        return rows
    if columns.image == "image" and "file_name" in rows.column_names:
        return rows.rename_columns([columns.image if name == "file_name" else name for name in rows.column_names])
    column = naming_column(rows, tree or look_into(file.parent))
    hint = f" {column}, whose values are names of images" if column else ""
    raise BiasEnsembleError(
        f"{file}: expected an image column {columns.image!r}, found columns {', '.join(rows.column_names)}; "
        f"name it with --image_column{hint}"
    )


def _folder_class(file: Path, names: SplitNames) -> tuple[ClassFolders, dict[str, str]] | None:
    """The classes that the folders beside a table would be, by folder; `None` if these are no class folders."""
    try:
        folders = class_folders(look_into(file.parent), vars(names).values())
    except BiasEnsembleError:
        return None
    if len(folders.classes()) < 2:
        return None
    return folders, {"/".join(parts): name for parts, (_, name) in folders.place.items()}


def _with_folder_labels(
    rows: pa.Table, paths: pa.ChunkedArray, columns: ColumnNames, file: Path, names: SplitNames
) -> tuple[pa.Table, str | None]:
    """The rows with labels from the class folders that their files lie in, if the table says nothing of classes."""
    found = _folder_class(file, names)
    if found is None:
        return rows, None
    known = {columns.image, columns.split or "split", columns.bias_label or "bias_label"}
    known.add(columns.is_conflicting or "is_conflicting")
    others = [name for name in rows.column_names if name not in known]
    classes = _class_by_folder(paths, found[1])
    if classes.null_count:
        return rows, None
    if others:
        raise BiasEnsembleError(
            f"{file}: expected a label column {columns.label!r}, found columns {', '.join(rows.column_names)}, and "
            f"class folders ({', '.join(found[0].classes()[:_NAMED])}); name a column with --label_column, or take "
            "the folders without the table with --layout folders"
        )
    return rows.append_column(columns.label, classes), "the names of folders"


def _class_by_folder(paths: pa.ChunkedArray, classes: dict[str, str]) -> pa.ChunkedArray:
    folders = pc.replace_substring_regex(pc.fill_null(paths, ""), "/?[^/]*$", "")
    places = pc.index_in(folders, pa.array(list(classes), pa.string()))
    return pc.take(pa.array(list(classes.values()), pa.string()), places)


def _refuse_contradiction(
    rows: pa.Table, paths: pa.ChunkedArray, columns: ColumnNames, file: Path, tree: Tree, names: SplitNames
) -> None:
    """Refuses a table whose labels are the names of the class folders, but not of those that the files lie in."""
    found = _folder_class(file, names)
    if found is None:
        return
    classes, labels = _class_by_folder(paths, found[1]), rows[columns.label]
    used, named = set(pc.unique(classes).to_pylist()) - {None}, set(pc.unique(labels).to_pylist()) - {None}
    other = pc.fill_null(pc.not_equal(classes, labels), False)
    if used & named and pc.any(other).as_py():
        row = int(np.flatnonzero(other.to_numpy(zero_copy_only=False))[0])
        raise BiasEnsembleError(
            f"{file}, row {row}: expected the label of the folder, {classes[row].as_py()}, found "
            f"{labels[row].as_py()}; take the table with --dataset_name {file}, or the folders with "
            f"--dataset_name {tree.root} --layout folders"
        )


# Datasets ------------------------------------------------------------------------------------------------------------


def _dataset(rows: pa.Table, root: Path | None, column: str = "image") -> datasets.Dataset:
    """Rows of text as a dataset, whose images are paths: below the root, or as they are."""
    paths = rows[column]
    if root is not None and root != Path():
        paths = pc.binary_join_element_wise(str(root), paths, "/")
    chunks = [
        pa.StructArray.from_arrays([pa.nulls(len(chunk), pa.binary()), chunk], ["bytes", "path"])
        for chunk in paths.chunks
    ]
    kind = datasets.Image().pa_type
    place = rows.column_names.index(column)
    rows = rows.set_column(place, column, pa.chunked_array(chunks, kind))
    features = datasets.Features(
        {name: datasets.Image() if name == column else datasets.Value("string") for name in rows.column_names}
    )
    return datasets.Dataset(rows, info=datasets.DatasetInfo(features=features))


def _with_paths(
    data: datasets.Dataset, columns: ColumnNames, file: Path, trusted: bool, notes: list[str]
) -> datasets.Dataset:
    """A dataset whose column of paths, if it is one, is a column of images."""
    if columns.image == "image" and "image" not in data.column_names and "file_name" in data.column_names:
        data = data.rename_column("file_name", "image")
    if getattr(data.features.get(columns.image), "dtype", None) not in ("string", "large_string"):
        return data
    paths = without_dot(data.with_format("arrow")[:][columns.image])
    if not trusted:
        check_inside(paths, file)
    full = located(paths, columns.image, file, notes)
    records = _dataset(pa.table({columns.image: full}), None, columns.image)
    return datasets.concatenate_datasets([data.remove_columns(columns.image), records], axis=1)


def with_image_feature(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """A dataset whose bytes, or structs of bytes and path, are images, as other libraries write them to Parquet."""
    feature = data.features.get(column)
    if isinstance(feature, datasets.Image):
        return data
    if getattr(feature, "dtype", None) in ("binary", "large_binary"):
        if feature.dtype == "large_binary":
            data = data.cast_column(column, datasets.Value("binary"))
        return data.cast_column(column, datasets.Image())
    if isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}:
        return data.cast_column(column, datasets.Image())
    return data
