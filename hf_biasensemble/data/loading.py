"""Any image dataset -> checked splits with the columns image, label, [bias_label], [is_conflicting]."""

from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.alignment import Alignment, aligned_as_told, aligned_by_majority, aligned_by_names
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.reading.files import some_of
from hf_biasensemble.data.reading.labels import UNKNOWN, flags_of, numbers_of
from hf_biasensemble.data.reading.plan import ReadingPlan, plan_reading
from hf_biasensemble.data.store.features import Features
from hf_biasensemble.data.vectors import texts_of, vectors_of
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once


def load_splits(args: DataArguments) -> dict[str, ImageSplit]:
    """Makes the reading plan of a dataset, prints it, follows it, and checks everything that training relies on.

    Returns:
        `dict[str, ImageSplit]`: `train`, `validation` and `test`, where they exist, their images not decoded yet; a
        test split without labels is left out. The column `is_conflicting` says which samples are bias-conflicting;
        where there is none, the option `aligned_bias`; else the names, if bias labels and classes have the same; else
        the majority of each class in `train`, which is printed. Numbers alone are never compared.

    Raises:
        `BiasEnsembleError`: If the data or a column is missing or ambiguous, or labels are unusable.
    """
    name, plan = str(args.dataset_name), plan_reading(args)
    print_once("\n".join(plan.lines))
    splits = {use: _check_split(use, args, plan) for use in plan.data}
    _check_widths(splits, name)
    if "train" in splits:
        _check_train_covers(splits["train"], name)
    return _with_conflicting(splits, args.aligned_bias, name)


def splits_in_memory(dataset: Any) -> dict[str, datasets.Dataset]:
    """What Python handed in, by split and without a format: a `Dataset` is the training split.

    Raises:
        `BiasEnsembleError`: If it is neither a `Dataset` nor a `DatasetDict`.
    """
    splits = {"train": dataset} if isinstance(dataset, datasets.Dataset) else dataset
    if splits == {}:
        raise BiasEnsembleError("dataset: expected a datasets.Dataset or DatasetDict, found an empty DatasetDict")
    if not isinstance(splits, dict) or not all(isinstance(split, datasets.Dataset) for split in splits.values()):
        raise BiasEnsembleError(
            "dataset: expected a datasets.Dataset or DatasetDict, a folder or a Hub id, found "
            f"{type(dataset).__name__}; Dataset.from_dict and Dataset.from_generator make one of lists and generators"
        )
    return {str(name): split.with_format(None) for name, split in splits.items()}


def _check_split(use: str, args: DataArguments, plan: ReadingPlan) -> ImageSplit:
    data, where = plan.data[use], f"{args.dataset_name}, split {use}"
    if len(data) == 0:
        raise BiasEnsembleError(f"{where}: expected images, found none")
    labels = numbers_of(data, args.label_column, plan.class_names, where)
    bias_column = _present(data, args.bias_label_column, "bias_label", where, "--bias_label_column")
    bias_labels = plan.bias_labels.get(use)
    is_conflicting = None
    conflicting_column = _present(data, args.conflicting_column, "is_conflicting", where, "--conflicting_column")
    if conflicting_column:
        is_conflicting = flags_of(data, conflicting_column, where)
    used = [args.label_column, bias_column, conflicting_column, args.split_column or "split"]
    return ImageSplit(
        Features.of_vectors(vectors_of(data, args.feature_column, where)) if args.feature_column else torch.empty(0),
        torch.from_numpy(labels),
        plan.class_names,
        torch.arange(len(labels)),
        bias_labels,
        is_conflicting,
        bias_names=None if bias_labels is None else plan.bias_names,
        aligned_by=conflicting_column and "column",
        reading=plan.lines,
        images=_images_of(data, args, where),
        texts=texts_of(data, used) if args.feature_column else None,
    )


def _images_of(data: datasets.Dataset, args: DataArguments, where: str) -> datasets.Dataset | None:
    """The column of images, undecoded, as `image`; where there are vectors, `None` if there is none."""
    if args.feature_column and not isinstance(data.features.get(args.image_column), datasets.Image):
        return None
    if args.image_column not in data.column_names:
        raise BiasEnsembleError(
            f"{where}: expected an image column {args.image_column!r}, found columns {', '.join(data.column_names)}; "
            "name it with --image_column"
        )
    image_feature = data.features[args.image_column]
    if not isinstance(image_feature, datasets.Image):
        raise BiasEnsembleError(
            f"{where}: expected column {args.image_column!r} to hold images, found {image_feature}; "
            "name another with --image_column (paths of files count from the folder of the dataset, or of its table)"
        )
    column = data.select_columns([args.image_column]).cast_column(args.image_column, datasets.Image(decode=False))
    if args.image_column != "image":
        column = column.rename_column(args.image_column, "image")
    return column


def _with_conflicting(splits: dict[str, ImageSplit], told: list[str] | None, name: str) -> dict[str, ImageSplit]:
    """Fills in `is_conflicting` where no column says it but bias labels are there; of all splits alike."""
    untold = {use: s for use, s in splits.items() if s.bias_labels is not None and s.is_conflicting is None}
    if told and not untold:
        by_column = any(split.is_conflicting is not None for split in splits.values())
        found = "a column that says which images are conflicting" if by_column else "no bias labels"
        raise BiasEnsembleError(
            f"{name}: expected bias labels for --aligned_bias, found {found}; leave the option out, or name "
            "the bias labels with --bias_label_column"
        )
    alignment = _alignment(next(iter(untold.values())), splits.get("train"), told) if untold else None
    if alignment is None:
        return splits
    for use, split in untold.items():
        assert split.bias_labels is not None
        splits[use] = replace(
            split,
            is_conflicting=alignment.is_conflicting(split.labels.numpy(), split.bias_labels)
            & (split.bias_labels >= 0),
            aligned_bias=alignment.pairs(),
            aligned_by=alignment.decided_by,
        )
    return splits


def _alignment(some: ImageSplit, train: ImageSplit | None, told: list[str] | None) -> Alignment | None:
    """What is bias-aligned, by the first that tells: the option, the names (`some` has them), the majority."""
    class_names, bias_names = some.class_names, [name for name in some.bias_names or [] if name != UNKNOWN]
    if told:
        return aligned_as_told(told, bias_names, class_names)
    alignment = aligned_by_names(bias_names, class_names)
    if alignment is None and bias_names and train is not None and train.bias_labels is not None:
        known = train.bias_labels >= 0
        return aligned_by_majority(train.labels[known].numpy(), train.bias_labels[known], bias_names, class_names)
    return alignment


def _present(data: datasets.Dataset, named: str | None, default: str, where: str, option: str) -> str | None:
    """The column to use: the one named on purpose, which must exist, else the usual one if it is there."""
    if named and named not in data.column_names:
        raise BiasEnsembleError(
            f"{where}: expected the column {named!r} given by {option}, found columns {', '.join(data.column_names)}"
        )
    return named or (default if default in data.column_names else None)


def _check_widths(splits: dict[str, ImageSplit], name: str) -> None:
    widths = {use: split.pixels.shape[-1] for use, split in splits.items() if split.has_vectors}
    for use, width in widths.items():
        first, expected = next(iter(widths.items()))
        if width != expected:
            raise BiasEnsembleError(
                f"{name}, split {use}: expected vectors of {expected} numbers, as in split {first}, found {width}"
            )


def _check_train_covers(train: ImageSplit, name: str) -> None:
    class_names = train.class_names
    present = np.bincount(train.labels.numpy(), minlength=len(class_names)) > 0
    absent = [class_names[number] for number in np.flatnonzero(~present)]
    if absent:
        raise BiasEnsembleError(
            f"{name}: expected images of every class in the training split, found none of {some_of(absent)}; "
            "add some or remove the class"
        )
    if len(class_names) < 2:
        raise BiasEnsembleError(f"{name}: expected at least two classes, found {', '.join(class_names)}")
