"""Tables: the image and the class of each row, where folders may say some of it."""

from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import IMAGE_SUFFIXES, Tree, look_into, suffix_of
from hf_biasensemble.data.reading.folders import class_folders
from hf_biasensemble.data.reading.found import Found, as_dataset, is_text, text_of, values_of
from hf_biasensemble.data.reading.rows import check_inside, located, naming_column, repeated, without_dot
from hf_biasensemble.data.reading.splits import split_column, split_names
from hf_biasensemble.data.reading.tables import is_binary_table, open_tables
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5


def read_tables(
    layout: str, tables: dict[str | None, list[Path]], args: DataArguments, tree: Tree | None = None
) -> Found:
    """The rows of tables: their images, which are not opened, and their labels.

    Args:
        layout: What they are, in words.
        tables: Files by split; `None` where their names say none.
        args: The columns to read.
        tree: What lies in the folder that brings the tables. A table that the user named has none, and may lead to
            files anywhere.
    """
    found = Found(layout, {}, table=next(iter(tables.values()))[0])
    for split, files in tables.items():
        are_parts = all(is_binary_table(file.name) for file in files)
        pieces = [_read(some, args, tree, found) for some in ([files] if are_parts else [[file] for file in files])]
        found.data[split or "train"] = datasets.concatenate_datasets(pieces)
    found.notes += repeated(found.data, args.image_column, args.label_column, layout)
    return found


def _read(files: list[Path], args: DataArguments, tree: Tree | None, found: Found) -> datasets.Dataset:
    """The rows of a table, with the images that its paths lead to; what is to be said of them goes into `found`."""
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
                "found a line break; a quote in this row may not be closed"
            )
    paths = without_dot(values_of(rows, image))
    if tree:
        check_inside(paths, file)
    columns = [as_dataset(pa.table({image: located(paths, image, file, found.notes)}), image)]
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
    """The columns of floats that are whole or blank, as pandas writes whole numbers with a gap, as int64."""
    whole = {}
    for name, feature in rows.features.items():
        if str(getattr(feature, "dtype", "")).startswith("float"):
            with suppress(pa.ArrowException):
                whole[name] = values_of(rows, name).cast(pa.int64())
    return whole


def _refuse_without_images(rows: datasets.Dataset, args: DataArguments, file: Path, tree: Tree | None) -> None:
    listed = ", ".join(rows.column_names)
    if any(suffix_of(name) in IMAGE_SUFFIXES for name in rows.column_names):
        raise BiasEnsembleError(
            f"{file}: expected the names of columns in the first line, found {listed}; write {args.image_column} and "
            f"{args.label_column} above it"
        )
    column = naming_column(rows.with_format("arrow")[:], tree or look_into(file.parent))
    hint = f" {column}, whose values are names of images" if column else ""
    raise BiasEnsembleError(
        f"{file}: expected an image column {args.image_column!r}, found columns {listed}; name it with "
        f"--image_column{hint}"
    )


def _labels_of_folders(
    rows: datasets.Dataset, paths: pa.ChunkedArray, file: Path, args: DataArguments, tree: Tree | None
) -> pa.ChunkedArray | None:
    """Labels from the class folders that the files lie in, if the table says nothing of classes.

    Raises:
        `BiasEnsembleError`: If its labels are names of class folders, but not of those that the files lie in.
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
        if set(rows.column_names) - known and not classes.null_count:
            raise BiasEnsembleError(
                f"{file}: expected a label column {label!r}, found columns {', '.join(rows.column_names)}, and class "
                f"folders ({', '.join(folders.classes()[:_NAMED])}); name a column with --label_column, or take the "
                "folders without the table with --layout folders"
            )
        return None if classes.null_count else classes
    if not is_text(rows, label) and not isinstance(rows.features[label], datasets.ClassLabel):
        return None
    labels = text_of(rows, label)
    used, named = (set(pc.unique(some).to_pylist()) - {None} for some in (classes, labels))
    if used & named:
        other = pc.fill_null(pc.not_equal(classes, labels), False)
        row = pc.index(other, True).as_py()
        if row >= 0:
            raise BiasEnsembleError(
                f"{file}, row {row}: expected the label of the folder, {classes[row]}, found {labels[row]}; take the "
                f"table with --dataset_name {file}, or the folders with --dataset_name {root} --layout folders"
            )
    return None
