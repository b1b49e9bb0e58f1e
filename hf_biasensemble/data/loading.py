"""Loads and checks splits with images, which stay undecoded, labels, bias labels and `is_conflicting`."""

from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.alignment import Alignment, aligned_by_majority, aligned_by_names, aligned_by_option
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.reading.files import some_of
from hf_biasensemble.data.reading.found import no_column
from hf_biasensemble.data.reading.labels import UNKNOWN, flags_of, numbers_of
from hf_biasensemble.data.reading.plan import ReadingPlan, plan_reading
from hf_biasensemble.data.store.features import Features
from hf_biasensemble.data.vectors import texts_of, vectors_of
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once


def load_splits(args: DataArguments) -> dict[str, ImageSplit]:
    """Plans how to read a dataset, prints the plan, and loads `train`, `validation` and `test`, as far as they exist.

    Omits a test split without labels. `is_conflicting` comes from its column or, in this order, from `--aligned_bias`,
    from equal names of bias labels and classes, or from the majority of each class in `train`, which is printed.
    Refuses missing or ambiguous data and columns, and unusable labels.
    """
    name, plan = str(args.dataset_name), plan_reading(args)
    print_once("\n".join(plan.lines))
    splits = {use: _check_split(use, args, plan) for use in plan.data}
    _check_widths(splits, name)
    if "train" in splits:
        _check_train_covers(splits["train"], name)
    return _with_conflicting(splits, args.aligned_bias, name)


def splits_in_memory(dataset: Any) -> dict[str, datasets.Dataset]:
    """The splits of a `DatasetDict`, without a format; a `Dataset` is the training split. Refuses other types."""
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
    conflicting_column = _present(data, args.conflicting_column, "is_conflicting", where, "--conflicting_column")
    used = [args.label_column, bias_column, conflicting_column, args.split_column or "split"]
    return ImageSplit(
        Features.of_vectors(vectors_of(data, args.feature_column, where)) if args.feature_column else torch.empty(0),
        torch.from_numpy(labels),
        plan.class_names,
        torch.arange(len(labels)),
        bias_labels,
        flags_of(data, conflicting_column, where) if conflicting_column else None,
        bias_names=None if bias_labels is None else plan.bias_names,
        aligned_by=conflicting_column and "column",
        reading=plan.lines,
        images=_images_of(data, args, where),
        texts=texts_of(data, used) if args.feature_column else None,
    )


def _images_of(data: datasets.Dataset, args: DataArguments, where: str) -> datasets.Dataset | None:
    """The column of images, undecoded, renamed to `image`; `None` if there are vectors and no images."""
    if args.feature_column and not isinstance(data.features.get(args.image_column), datasets.Image):
        return None
    column = args.image_column
    if column not in data.column_names:
        raise no_column(where, f"an image column {column!r}", data, "name it with --image_column")
    if not isinstance(data.features[column], datasets.Image):
        raise BiasEnsembleError(
            f"{where}: expected column {column!r} to hold images, found {data.features[column]}; name another with "
            "--image_column (paths are relative to the folder of the dataset, or of its table)"
        )
    images = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return images if column == "image" else images.rename_column(column, "image")


def _with_conflicting(splits: dict[str, ImageSplit], pairs: list[str] | None, name: str) -> dict[str, ImageSplit]:
    """Fills in `is_conflicting` of splits with bias labels and without that column, by the same rule in all splits."""
    open_splits = {use: s for use, s in splits.items() if s.bias_labels is not None and s.is_conflicting is None}
    if pairs and not open_splits:
        by_column = any(split.is_conflicting is not None for split in splits.values())
        found = "a column that says which images are conflicting" if by_column else "no bias labels"
        raise BiasEnsembleError(
            f"{name}: expected bias labels for --aligned_bias, found {found}; remove the option, or name the bias "
            "labels with --bias_label_column"
        )
    alignment = _alignment(next(iter(open_splits.values())), splits.get("train"), pairs) if open_splits else None
    if alignment is None:
        return splits
    for use, split in open_splits.items():
        assert split.bias_labels is not None
        splits[use] = replace(
            split,
            is_conflicting=alignment.is_conflicting(split.labels.numpy(), split.bias_labels),
            aligned_bias=alignment.pairs(),
            aligned_by=alignment.decided_by,
        )
    return splits


def _alignment(some: ImageSplit, train: ImageSplit | None, pairs: list[str] | None) -> Alignment | None:
    """The alignment by the option, by the names in `some`, or by the majority in `train`, whichever applies first."""
    class_names, bias_names = some.class_names, [name for name in some.bias_names or [] if name != UNKNOWN]
    if pairs:
        return aligned_by_option(pairs, bias_names, class_names)
    alignment = aligned_by_names(bias_names, class_names)
    if alignment is None and bias_names and train is not None and train.bias_labels is not None:
        known = train.bias_labels >= 0
        return aligned_by_majority(train.labels[known].numpy(), train.bias_labels[known], bias_names, class_names)
    return alignment


def _present(data: datasets.Dataset, named: str | None, default: str, where: str, option: str) -> str | None:
    """The column named by option, which must exist, or the default column if it exists."""
    if named and named not in data.column_names:
        raise no_column(where, f"the column {named!r} given by {option}", data, "choose one of them")
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
    absent = [class_names[number] for number in np.setdiff1d(np.arange(len(class_names)), train.labels.numpy())]
    if absent:
        raise BiasEnsembleError(
            f"{name}: expected images of every class in the training split, found none of {some_of(absent)}; "
            "add some or remove the class"
        )
    if len(class_names) < 2:
        raise BiasEnsembleError(f"{name}: expected at least two classes, found {', '.join(class_names)}")
