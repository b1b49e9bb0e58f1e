"""Tables: the image, the class and the split of each row, where folders may say some of it."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import IMAGE_SUFFIXES, Parts, Tree, images, look_into, suffix_of
from hf_biasensemble.data.reading.folders import ClassFolders, class_folders
from hf_biasensemble.data.reading.found import Found, as_dataset
from hf_biasensemble.data.reading.rows import check_inside, located, naming_column, repeated, without_dot
from hf_biasensemble.data.reading.splits import (
    FROM_PATHS,
    NO_SPLITS,
    split_column,
    split_names,
    splits_of_column,
    splits_of_paths,
)
from hf_biasensemble.data.reading.tables import (
    is_binary_table,
    open_binary_tables,
    read_text_table,
    typed_as_text,
)
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5


def read_tables(
    layout: str,
    tables: dict[str | None, list[Path]],
    args: DataArguments,
    trusted: bool = False,
    tree: Tree | None = None,
) -> Found:
    """Tables with types, which may be in several files of each split, or of text: one for each split.

    Args:
        layout: What they are, in words.
        tables: Files by split; `None` where their names say none.
        args: The columns to read.
        trusted: The user named the table, so it may lead to files anywhere.
        tree: What lies in the folder that brings the tables.
    """
    files = {split: some[0] for split, some in tables.items()}
    if not is_binary_table(next(iter(files.values())).name):
        return read_rows(layout, files, args, trusted, tree)
    notes: list[str] = []
    data = {}
    for split, some in tables.items():
        rows = open_binary_tables(some, str((tree.root if tree else some[0]).resolve()))
        if tree and len(rows) == 0:
            raise ValueError(f"{', '.join(str(file.relative_to(tree.root)) for file in some)} holds no data")
        data[split or "train"] = _with_paths(rows, args, some[0], trusted, notes)
    return Found(layout, data, notes=notes)


def _with_paths(
    data: datasets.Dataset, args: DataArguments, file: Path, trusted: bool, notes: list[str]
) -> datasets.Dataset:
    """A dataset whose column of paths, if it is one, is a column of images."""
    column = args.image_column
    if column == "image" and "image" not in data.column_names and "file_name" in data.column_names:
        data = data.rename_column("file_name", "image")
    if getattr(data.features.get(column), "dtype", None) not in ("string", "large_string"):
        return data
    paths = without_dot(data.with_format("arrow")[:][column])
    if not trusted:
        check_inside(paths, file)
    records = as_dataset(pa.table({column: located(paths, column, file, notes)}), column)
    return datasets.concatenate_datasets([data.remove_columns(column), records], axis=1)


def read_rows(
    layout: str,
    files: dict[str | None, Path],
    args: DataArguments,
    trusted: bool = False,
    tree: Tree | None = None,
    together: bool = False,
) -> Found:
    """The images that the rows of tables name, and their splits; `together`: one dataset of several tables."""
    image, label, first = args.image_column, args.label_column, next(iter(files.values()))
    if args.feature_column:
        raise BiasEnsembleError(
            f"--feature_column {args.feature_column}: expected vectors in Parquet, Arrow, a folder of save_to_disk or "
            f"a dataset on the Hub, found {first}; save it with datasets.Dataset.to_parquet"
        )
    notes: list[str] = []
    parts: dict[str | None, pa.Table] = {}
    splits_from = labels_from = None
    for split, file in files.items():
        rows, said = (typed_as_text(file), []) if is_binary_table(file.name) else read_text_table(file)
        notes += said
        rows = _with_image_column(rows, args, file, tree)
        for column in (name for name in (image, label) if name in rows.column_names):
            broken = pc.fill_null(pc.match_substring(rows[column], "\n"), False).to_numpy(zero_copy_only=False)
            if broken.any():
                raise BiasEnsembleError(
                    f"{file}, row {broken.argmax()}: expected a value of one line in column {column!r}, found a line "
                    "break; a quote in this row may not be closed"
                )
        paths = without_dot(rows[image])
        if not trusted:
            check_inside(paths, file)
        full = located(paths, image, file, notes)
        if label not in rows.column_names or (tree and not trusted):
            folders = _class_folders(file, args, tree if tree and tree.root == file.parent else None)
            if folders and label not in rows.column_names:
                rows, labels_from = _with_folder_labels(rows, paths, folders, file, args)
            elif folders:
                _refuse_contradiction(rows, paths, folders, file, args, tree)
        parts[split] = rows.set_column(rows.column_names.index(image), image, full)
    if together:
        parts = {None: pa.concat_tables(parts.values(), promote_options="default")}
    if list(parts) == [None] and args.split_column != NO_SPLITS:
        found = _splits_by_paths(parts[None], args, first)
        if found is not None:
            kinds = dict.fromkeys(found.tolist())
            parts = {str(split): parts[None].take(np.flatnonzero(found == split)) for split in kinds}
            splits_from = "the folders in its paths"
    of_split = {split or "train": rows for split, rows in parts.items()}
    notes += repeated(
        {split: rows[image] for split, rows in of_split.items()},
        {split: _column(rows, label) for split, rows in of_split.items()},
        layout,
    )
    if tree and tree.images:
        notes += _in_no_row(tree, [rows[image] for rows in of_split.values()])
    data = {split: as_dataset(rows, image) for split, rows in of_split.items()}
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


def _splits_by_paths(rows: pa.Table, args: DataArguments, file: Path) -> np.ndarray | None:
    """The split of each row by the folders in its path, where no column says it; the two must not differ."""
    asked, paths = args.split_column, rows[args.image_column]
    column = split_column(rows.column_names, asked)
    has_column = column in rows.column_names and asked != FROM_PATHS
    if asked not in (None, FROM_PATHS):
        return None
    start = "" if str(file.parent) == "." else f"{file.parent}/"  # a folder's own name says nothing of splits
    paths = pc.if_else(pc.starts_with(paths, start), pc.utf8_slice_codeunits(paths, len(start)), paths)
    try:
        by_paths = splits_of_paths(paths, _column(rows, args.label_column), split_names(args).values(), str(file))
    except BiasEnsembleError:
        if has_column:
            return None
        raise
    if not has_column or by_paths is None:
        return by_paths
    by_column = splits_of_column(rows[column], column, str(file))
    different = np.flatnonzero(by_paths != by_column)
    if len(different):
        row = int(different[0])
        raise BiasEnsembleError(
            f"{file}, row {row}: expected the column {column!r} and the folder in the path to say the same split, "
            f"found {by_column[row]} and {by_paths[row]}; take the column with --split_column {column}, or the "
            f"folders with --split_column {FROM_PATHS}"
        )
    return None


def _with_image_column(rows: pa.Table, args: DataArguments, file: Path, tree: Tree | None) -> pa.Table:
    """The rows with the column of paths under the name that was asked for."""
    image = args.image_column
    if image in rows.column_names:
        return rows
    if image == "image" and "file_name" in rows.column_names:
        return rows.rename_columns([image if name == "file_name" else name for name in rows.column_names])
    listed = ", ".join(rows.column_names)
    if any(suffix_of(name) in IMAGE_SUFFIXES for name in rows.column_names):
        raise BiasEnsembleError(
            f"{file}: expected the names of columns in the first line, found {listed}; write {image} and "
            f"{args.label_column} above it"
        )
    column = naming_column(rows, tree or look_into(file.parent))
    hint = f" {column}, whose values are names of images" if column else ""
    raise BiasEnsembleError(
        f"{file}: expected an image column {image!r}, found columns {listed}; name it with --image_column{hint}"
    )


def _class_folders(file: Path, args: DataArguments, tree: Tree | None) -> ClassFolders | None:
    """The class folders beside a table; `None` if the folders there are none."""
    try:
        folders = class_folders(tree or look_into(file.parent), split_names(args).values())
    except BiasEnsembleError:
        return None
    return folders if len(folders.classes()) > 1 else None


def _with_folder_labels(
    rows: pa.Table, paths: pa.ChunkedArray, folders: ClassFolders, file: Path, args: DataArguments
) -> tuple[pa.Table, str | None]:
    """The rows with labels from the class folders that their files lie in, if the table says nothing of classes."""
    known = {args.image_column, split_column(rows.column_names, args.split_column)}
    known |= {args.bias_label_column or "bias_label", args.conflicting_column or "is_conflicting"}
    classes = _class_by_folder(paths, folders.place)
    if classes.null_count:
        return rows, None
    if set(rows.column_names) - known:
        raise BiasEnsembleError(
            f"{file}: expected a label column {args.label_column!r}, found columns {', '.join(rows.column_names)}, "
            f"and class folders ({', '.join(folders.classes()[:_NAMED])}); name a column with --label_column, or take "
            "the folders without the table with --layout folders"
        )
    return rows.append_column(args.label_column, classes), "the names of folders"


def _class_by_folder(paths: pa.ChunkedArray, place: dict[Parts, tuple[str | None, str]]) -> pa.ChunkedArray:
    folders = pc.replace_substring_regex(pc.fill_null(paths, ""), "/?[^/]*$", "")
    places = pc.index_in(folders, pa.array(["/".join(parts) for parts in place], pa.string()))
    return pc.take(pa.array([name for _, name in place.values()], pa.string()), places)


def _refuse_contradiction(
    rows: pa.Table, paths: pa.ChunkedArray, folders: ClassFolders, file: Path, args: DataArguments, tree: Tree | None
) -> None:
    """Refuses a table whose labels are the names of the class folders, but not of those that the files lie in."""
    classes, labels = _class_by_folder(paths, folders.place), rows[args.label_column]
    used, named = set(pc.unique(classes).to_pylist()) - {None}, set(pc.unique(labels).to_pylist()) - {None}
    other = pc.fill_null(pc.not_equal(classes, labels), False).to_numpy(zero_copy_only=False)
    if used & named and other.any():
        row = int(other.argmax())
        raise BiasEnsembleError(
            f"{file}, row {row}: expected the label of the folder, {classes[row].as_py()}, found "
            f"{labels[row].as_py()}; take the table with --dataset_name {file}, or the folders with "
            f"--dataset_name {tree.root if tree else file.parent} --layout folders"
        )
