"""Any image dataset -> checked splits with the columns image, label, [bias_label], [is_conflicting]."""

from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_biasensemble.data.alignment import Alignment, aligned_as_told, aligned_by_majority, aligned_by_names
from hf_biasensemble.data.sources import open_data_set
from hf_biasensemble.data.split_names import SplitNames, chosen_splits, without_unlabelled_test
from hf_biasensemble.internal.errors import BiasEnsembleError


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns in the dataset at hand.

    `bias_label` and `is_conflicting` may be absent from the data unless they were named on purpose.
    """

    image: str = "image"
    label: str = "label"
    bias_label: str | None = None
    is_conflicting: str | None = None


@dataclass
class LabelledSplit:
    """One split of a dataset, checked; the images are not decoded yet.

    Attributes:
        images: `datasets.Dataset` with the one column `image`, undecoded (`bytes` and `path`).
        labels: int64 (N,) in 0..K-1.
        class_names: The K names.
        bias_labels: int64 (N,), or `None` where unknown. They measure; training never reads them.
        is_conflicting: bool (N,), or `None` where unknown.
        bias_names: Names of the bias labels, or `None` where unknown.
        aligned_bias: What is bias-aligned, as pairs `bias=class`; `None` where unknown or where a column says it.
        aligned_by: Who says what is bias-aligned: "column", "option" (`--aligned_bias`), "names" or "majority"; `None`
            where that is unknown.
    """

    images: datasets.Dataset
    labels: np.ndarray
    class_names: list[str]
    bias_labels: np.ndarray | None
    is_conflicting: np.ndarray | None
    bias_names: list[str] | None = None
    aligned_bias: list[str] | None = None
    aligned_by: str | None = None


def load_splits(
    name: str,
    config_name: str | None = None,
    columns: ColumnNames | None = None,
    aligned_bias: list[str] | None = None,
    names: SplitNames | None = None,
    revision: str | None = None,
) -> dict[str, LabelledSplit]:
    """Opens a dataset and checks everything that training relies on.

    Args:
        name (`str`): Hub id, local folder or table, as [`open_data_set`] takes it.
        config_name (`str`, *optional*): Configuration, for instance a severity such as `"1pct"`.
        columns (`ColumnNames`, *optional*): Where to find what. By default `image`, `label` and, if there,
            `bias_label` and `is_conflicting`.
        aligned_bias (`list[str]`, *optional*): Which bias goes with which class, as pairs `bias=class`.
        names (`SplitNames`, *optional*): Which split is for what.
        revision (`str`, *optional*): Branch, tag or commit of a dataset on the Hub.

    Returns:
        `dict[str, LabelledSplit]`: `train`, `validation` and `test`, as far as the data has them; a test split without
        labels is left out, and a line says so. Which samples are
        bias-conflicting says the column `is_conflicting`; where there is none, `aligned_bias`; else the names, if bias
        labels and classes have the same; else the majority of each class in `train`, which is printed. Numbers alone
        are never compared.

    Raises:
        `BiasEnsembleError`: If the data or a column is missing, or labels are unusable; names column and row.
    """
    columns, names = columns or ColumnNames(), names or SplitNames()
    raw = chosen_splits(open_data_set(name, config_name, columns.image, revision, vars(names).values()), names, name)
    raw = without_unlabelled_test(raw, columns.label, name)
    class_names = _class_names(raw, columns.label, name)
    bias_column = columns.bias_label or "bias_label"
    with_bias = {split: data for split, data in raw.items() if bias_column in data.column_names}
    bias_names = _class_names(with_bias, bias_column, name) if with_bias else []
    splits = {
        split: _check_split(data, columns, class_names, bias_names, f"{name}, split {split}")
        for split, data in raw.items()
    }
    if "train" in splits:
        _check_train_covers(splits, class_names, name)
    _tell_conflicting(splits, aligned_bias, name)
    return splits


def _class_names(raw: dict[str, datasets.Dataset], column: str, name: str) -> list[str]:
    """ClassLabel names, else the sorted distinct strings, else "0".."max" for whole numbers."""
    for split, data in raw.items():
        if column not in data.column_names:
            raise BiasEnsembleError(
                f"{name}, split {split}: expected a label column {column!r}, found columns "
                f"{', '.join(data.column_names)}; name it with --label_column"
            )
    declared = [data.features[column].names for data in raw.values() if hasattr(data.features[column], "names")]
    if declared:
        if any(names != declared[0] for names in declared) or len(declared) < len(raw):
            raise BiasEnsembleError(f"{name}: the splits declare different classes in column {column!r}")
        return list(declared[0])
    values: set = set()
    for split, data in raw.items():
        if getattr(data.features[column], "dtype", None) not in _LABEL_TYPES:
            raise BiasEnsembleError(
                f"{name}, split {split}: expected column {column!r} to hold classes (ClassLabel, string or whole "
                f"numbers), found {data.features[column]}"
            )
        values.update(value for value in data.unique(column) if value is not None)
    if all(isinstance(value, str) for value in values):
        return sorted(values)
    if any(isinstance(value, str) for value in values):
        raise BiasEnsembleError(f"{name}: column {column!r} is text in one split and numbers in another")
    largest = max(values, default=-1)
    if largest >= sum(map(len, raw.values())):
        raise BiasEnsembleError(
            f"{name}: expected column {column!r} to number the classes 0, 1, 2, ..., found {largest} in fewer rows "
            "than that; number them anew, or store them as text"
        )
    return [str(value) for value in range(largest + 1)]


_LABEL_TYPES = {
    "string",
    "large_string",
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


def _check_split(
    data: datasets.Dataset, columns: ColumnNames, class_names: list[str], bias_names: list[str], where: str
) -> LabelledSplit:
    if len(data) == 0:
        raise BiasEnsembleError(f"{where}: expected images, found none")
    if columns.image not in data.column_names:
        raise BiasEnsembleError(
            f"{where}: expected an image column {columns.image!r}, found columns {', '.join(data.column_names)}; "
            "name it with --image_column"
        )
    image_feature = data.features[columns.image]
    if not isinstance(image_feature, datasets.Image):
        raise BiasEnsembleError(
            f"{where}: expected column {columns.image!r} to hold images, found {image_feature}; "
            "name another with --image_column (paths of files count from the folder of the dataset, or of its table)"
        )
    images = data.select_columns([columns.image]).cast_column(columns.image, datasets.Image(decode=False))
    if columns.image != "image":
        images = images.rename_column(columns.image, "image")
    labels = _integers(data, columns.label, class_names, where)
    bias_labels = None
    bias_column = _present(data, columns.bias_label, "bias_label", where, "--bias_label_column")
    if bias_column:
        bias_labels = _integers(data, bias_column, bias_names, where)
    is_conflicting = None
    conflicting_column = _present(data, columns.is_conflicting, "is_conflicting", where, "--conflicting_column")
    if conflicting_column:
        is_conflicting = _integers(data, conflicting_column, ["False", "True"], where).astype(bool)
    return LabelledSplit(
        images,
        labels,
        class_names,
        bias_labels,
        is_conflicting,
        bias_names=None if bias_labels is None else bias_names,
        aligned_by=conflicting_column and "column",
    )


def _tell_conflicting(splits: dict[str, LabelledSplit], told: list[str] | None, name: str) -> None:
    """Fills in `is_conflicting` where no column says it but bias labels are there; of all splits alike."""
    untold = [split for split in splits.values() if split.bias_labels is not None and split.is_conflicting is None]
    if told and not untold:
        found = "a column that says which images are conflicting" if _any_conflicting(splits) else "no bias labels"
        raise BiasEnsembleError(
            f"{name}: expected bias labels that --aligned_bias is about, found {found}; leave the option out, or name "
            "the bias labels with --bias_label_column"
        )
    if not untold:
        return
    alignment = _alignment(untold[0], splits.get("train"), told)
    if alignment is None:
        return
    for split in untold:
        assert split.bias_labels is not None
        split.is_conflicting = alignment.is_conflicting(split.labels, split.bias_labels)
        split.aligned_bias, split.aligned_by = alignment.pairs(), alignment.decided_by


def _alignment(some: LabelledSplit, train: LabelledSplit | None, told: list[str] | None) -> Alignment | None:
    """What is bias-aligned, by the first that tells: the option, the names (`some` has them), the majority."""
    class_names, bias_names = some.class_names, some.bias_names or []
    if told:
        return aligned_as_told(told, bias_names, class_names)
    alignment = aligned_by_names(bias_names, class_names)
    if alignment is None and train is not None and train.bias_labels is not None:
        return aligned_by_majority(train.labels, train.bias_labels, bias_names, class_names)
    return alignment


def _any_conflicting(splits: dict[str, LabelledSplit]) -> bool:
    return any(split.is_conflicting is not None for split in splits.values())


def _present(data: datasets.Dataset, named: str | None, default: str, where: str, option: str) -> str | None:
    """The column to use: the one named on purpose, which must exist, else the usual one if it is there."""
    if named and named not in data.column_names:
        raise BiasEnsembleError(
            f"{where}: expected the column {named!r} given by {option}, found columns {', '.join(data.column_names)}"
        )
    return named or (default if default in data.column_names else None)


def _integers(data: datasets.Dataset, column: str, names: list[str], where: str) -> np.ndarray:
    """The column as int64 in 0..len(names)-1; the first bad row is named."""
    found = data.select_columns([column]).with_format("arrow")[:][column]
    numbers = pc.index_in(found, pa.array(names, found.type)) if _is_text(found.type) else found
    values = numbers.cast(pa.float64(), safe=False).to_numpy()  # NaN where there is none
    is_class = (values >= 0) & (values < len(names)) & (values == np.floor(values))
    if not is_class.all():
        row = int(is_class.argmin())
        what = "nothing (null)" if found[row].as_py() is None else found[row].as_py()
        raise BiasEnsembleError(
            f"{where}: column {column!r}, row {row}: expected a class in 0..{len(names) - 1} "
            f"({', '.join(names[:10])}), found {what}; mend or drop the row"
        )
    return values.astype(np.int64)


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _check_train_covers(splits: dict[str, LabelledSplit], class_names: list[str], name: str) -> None:
    present = np.bincount(splits["train"].labels, minlength=len(class_names)) > 0
    absent = [class_names[number] for number in np.flatnonzero(~present)]
    if absent:
        raise BiasEnsembleError(
            f"{name}: expected images of every class in the training split, found none of {', '.join(absent[:10])}"
            f"{f' and {len(absent) - 10} more' if len(absent) > 10 else ''}; add some or remove the class"
        )
    if len(class_names) < 2:
        raise BiasEnsembleError(f"{name}: expected at least two classes, found {', '.join(class_names)}")
