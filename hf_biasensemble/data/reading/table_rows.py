"""Tables of text: the image, the class and the split of each row, where folders may say some of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.data.reading.files import IMAGE_SUFFIXES, Tree, images, look_into, suffix_of
from hf_biasensemble.data.reading.folders import ClassFolders, class_folders
from hf_biasensemble.data.reading.found import Found, as_dataset
from hf_biasensemble.data.reading.names import ColumnNames, SplitNames
from hf_biasensemble.data.reading.rows import (
    FROM_PATHS,
    NO_SPLITS,
    check_inside,
    located,
    naming_column,
    repeated,
    split_column,
    splits_of_column,
    splits_of_paths,
    without_dot,
)
from hf_biasensemble.data.reading.tables import is_binary_table, read_text_table, typed_as_text
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5


def of_rows(
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
        for column in (name for name in (columns.image, columns.label) if name in rows.column_names):
            broken = pc.fill_null(pc.match_substring(rows[column], "\n"), False).to_numpy(zero_copy_only=False)
            if broken.any():
                raise BiasEnsembleError(
                    f"{file}, row {broken.argmax()}: expected a value of one line in column {column!r}, found a line "
                    "break; a quote in this row may not be closed"
                )
        paths = without_dot(rows[columns.image])
        beside = tree if tree is not None and tree.root == file.parent else None
        if not trusted:
            check_inside(paths, file)
        full = located(paths, columns.image, file, notes)
        if columns.label not in rows.column_names:
            rows, labels_from = _with_folder_labels(rows, paths, columns, file, names, beside)
        elif tree is not None and not trusted:
            _refuse_contradiction(rows, paths, columns, file, tree, names)
        parts[split] = rows.set_column(rows.column_names.index(columns.image), columns.image, full)
    splits_from = None
    if together:
        parts = {None: pa.concat_tables(parts.values(), promote_options="default")}
    if list(parts) == [None]:
        rows = parts[None]
        by_column = split_column(rows.column_names, columns.split)
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
        layout,
    )
    if tree is not None and tree.images:
        notes += _in_no_row(tree, [rows[columns.image] for rows in of_split.values()])
    data = {split: as_dataset(rows, None, columns.image) for split, rows in of_split.items()}
    return Found(layout, data, splits_from, labels_from, notes)


def _in_no_row(tree: Tree, paths: list[pa.ChunkedArray]) -> list[str]:
    """A line on images in the folder that the table does not name."""
    named = pc.unique(pa.chunked_array([chunk for each in paths for chunk in each.chunks], pa.string()))
    files = tree.paths()
    start = "" if str(tree.root) == "." else f"{tree.root}/"
    absent = files.filter(pc.invert(pc.is_in(pc.binary_join_element_wise(start, files, ""), value_set=named)))
    if not len(absent):
        return []
    return [f"not read: {images(len(absent))} that no row names, such as {absent[0].as_py()}"]


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
    if any(suffix_of(name) in IMAGE_SUFFIXES for name in rows.column_names):
        raise BiasEnsembleError(
            f"{file}: expected the names of columns in the first line, found {', '.join(rows.column_names)}; write "
            f"{columns.image} and {columns.label} above it"
        )
    column = naming_column(rows, tree or look_into(file.parent))
    hint = f" {column}, whose values are names of images" if column else ""
    raise BiasEnsembleError(
        f"{file}: expected an image column {columns.image!r}, found columns {', '.join(rows.column_names)}; "
        f"name it with --image_column{hint}"
    )


def _folder_class(file: Path, names: SplitNames, tree: Tree | None) -> tuple[ClassFolders, dict[str, str]] | None:
    """The classes that the folders beside a table would be, by folder; `None` if these are no class folders."""
    try:
        folders = class_folders(tree or look_into(file.parent), vars(names).values())
    except BiasEnsembleError:
        return None
    if len(folders.classes()) < 2:
        return None
    return folders, {"/".join(parts): name for parts, (_, name) in folders.place.items()}


def _with_folder_labels(
    rows: pa.Table, paths: pa.ChunkedArray, columns: ColumnNames, file: Path, names: SplitNames, tree: Tree | None
) -> tuple[pa.Table, str | None]:
    """The rows with labels from the class folders that their files lie in, if the table says nothing of classes."""
    found = _folder_class(file, names, tree)
    if found is None:
        return rows, None
    known = {columns.image, split_column(rows.column_names, columns.split), columns.bias_label or "bias_label"}
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
    found = _folder_class(file, names, tree if tree.root == file.parent else None)
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
