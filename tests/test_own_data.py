"""One's own images, in each layout people have them."""

import csv
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Features, Value
from loaded import load_splits
from synthetic import class_folders, photo, png

from hf_biasensemble.data.pixels import decode_split
from hf_biasensemble.internal.errors import BiasEnsembleError


def seen(name: Path | str, **columns) -> dict[str, list[tuple[str, int]]]:
    """Class and grey value of each image of each split."""
    splits = load_splits(str(name), **columns)
    greys = {split: decode_split(data, 4).pixels[:, 0, 0, 0].tolist() for split, data in splits.items()}
    return {
        split: [(data.class_names[label], grey) for label, grey in zip(data.labels, greys[split], strict=True)]
        for split, data in splits.items()
    }


EXPECTED = [("ant", 40), ("ant", 41), ("owl", 200), ("owl", 201)]


# Class folders -------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    assert seen(class_folders(tmp_path)) == {"train": EXPECTED}


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
def test_class_folders_in_split_folders(tmp_path, validation):
    for split in ("train", validation, "test"):
        class_folders(tmp_path / split)
    assert seen(tmp_path) == {"train": EXPECTED, "validation": EXPECTED, "test": EXPECTED}


def test_classes_and_files_may_be_called_like_splits(tmp_path):
    class_folders(tmp_path, {"bus": 0, "train": 100}, file="test-{}.png")
    assert seen(tmp_path) == {"train": [("bus", 0), ("bus", 1), ("train", 100), ("train", 101)]}


def test_classes_that_are_all_called_like_splits_must_be_said_to_be_classes(tmp_path):
    class_folders(tmp_path, {"test": 0, "train": 100})
    with pytest.raises(BiasEnsembleError, match="class folders in test/, train/, found images .* --layout folders"):
        load_splits(str(tmp_path))
    assert list(load_splits(str(tmp_path), layout="folders")) == ["train"]


@pytest.mark.parametrize("other", ["docs/drawing.png", "extra/ant/1.png", "val/stray.png"])
def test_split_folders_beside_others_are_refused(tmp_path, other):
    for split in ("train", "test"):
        class_folders(tmp_path / split)
    photo(tmp_path / other, 1)
    with pytest.raises(BiasEnsembleError, match=rf"split folders .test, train. beside others .{other.split('/')[0]}"):
        load_splits(str(tmp_path))


def test_folders_inside_a_class_belong_to_it(tmp_path):
    class_folders(tmp_path)
    photo(tmp_path / "owl" / "night" / "a.png", 9)
    assert ("owl", 9) in seen(tmp_path)["train"]


def test_other_files_are_left_out_and_said(tmp_path, capsys):
    class_folders(tmp_path)
    for name in ("notes.txt", "ant/new.heic", "ant/other.heic", ".hidden.png", "owl/.DS_Store", "__MACOSX/ant/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert seen(tmp_path) == {"train": EXPECTED}
    assert "  files without an image extension are ignored: 2 .heic, 1 .txt" in capsys.readouterr().out


def test_image_in_no_class_folder_is_refused_by_name(tmp_path):
    stray = photo(class_folders(tmp_path) / "stray.png", 1)
    with pytest.raises(BiasEnsembleError, match=f"in one folder for each class, found {stray} in none"):
        load_splits(str(tmp_path))


def test_link_to_nowhere_is_an_unreadable_image(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "owl" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(BiasEnsembleError, match=r"row 4 \(.*owl/gone.png: file not found\)"):
        decode_split(load_splits(str(tmp_path))["train"], 4)


# Tables of files -----------------------------------------------------------------------------------------------------


def table(file: Path, columns: dict[str, list]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if file.suffix == ".csv":
        with open(file, "w", newline="") as stream:
            csv.writer(stream).writerows([list(columns), *(row.values() for row in rows)])
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        datasets.Dataset.from_dict(columns).to_parquet(file)
    return file


def photos(folder: Path) -> dict[str, list]:
    """Four files in folders that say nothing, and the columns of their table."""
    files = [f"some/{name}{number}.png" for name in "xy" for number in range(2)]
    for file, (_, grey) in zip(files, EXPECTED, strict=True):
        photo(folder / file, grey)
    return {"file_name": files, "label": [name for name, _ in EXPECTED]}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_folder_with_metadata(tmp_path, name):
    table(tmp_path / name, photos(tmp_path))
    assert seen(tmp_path) == {"train": EXPECTED}


def test_empty_records_of_json_are_left_out_and_that_is_said(tmp_path, capsys):
    file = table(tmp_path / "list.jsonl", photos(tmp_path))
    file.write_text("{}\n\n" + file.read_text())
    assert seen(file) == {"train": EXPECTED}
    assert "list.jsonl: 1 empty row is left out" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_table_with_a_column_of_paths_of_any_name(tmp_path, name):
    columns = photos(tmp_path)
    columns["path"] = columns.pop("file_name")
    assert seen(table(tmp_path / name, columns), image_column="path") == {"train": EXPECTED}


def test_absolute_paths_and_other_label_column(tmp_path):
    columns = photos(tmp_path / "images")
    files = [str(tmp_path / "images" / file) for file in columns["file_name"]]
    file = table(tmp_path / "elsewhere" / "list.csv", {"file_name": files, "kind": columns["label"]})
    assert seen(file, label_column="kind") == {"train": EXPECTED}


def test_metadata_in_each_split_folder(tmp_path):
    for split in ("train", "val"):
        table(tmp_path / split / "metadata.csv", photos(tmp_path / split))
    assert seen(tmp_path) == {"train": EXPECTED, "validation": EXPECTED}


def test_several_tables_below_a_folder_that_is_called_like_a_split(tmp_path):
    for place in ("one", "two"):
        table(tmp_path / "test" / "photos" / place / "metadata.csv", photos(tmp_path / "test" / "photos" / place))
    assert seen(tmp_path / "test" / "photos") == {"train": 2 * EXPECTED}


def test_one_table_of_files_in_split_folders(tmp_path):
    parts = {split: photos(tmp_path / split) for split in ("train", "test")}
    files = [f"{split}/{file}" for split, columns in parts.items() for file in columns["file_name"]]
    table(tmp_path / "metadata.csv", {"file_name": files, "label": 2 * [name for name, _ in EXPECTED]})
    assert seen(tmp_path) == {"train": EXPECTED, "test": EXPECTED}


def test_folder_with_a_table_for_each_split(tmp_path):
    for split in ("train", "test"):
        table(tmp_path / f"{split}.csv", photos(tmp_path))
    assert seen(tmp_path) == {"train": EXPECTED, "test": EXPECTED}


def test_bias_columns_of_a_table(tmp_path):
    columns = photos(tmp_path)
    columns |= {"place": ["land", "sea", "sea", "land"], "odd": [0, 1, 0, 1]}
    file = table(tmp_path / "list.csv", columns)
    split = load_splits(str(file), bias_label_column="place")["train"]
    assert split.bias_labels.tolist() == [0, 1, 1, 0] and split.bias_names == ["land", "sea"]
    assert split.is_conflicting is None
    split = load_splits(str(file), conflicting_column="odd")["train"]
    assert split.is_conflicting.tolist() == [False, True, False, True] and split.bias_labels is None


def test_file_that_is_not_there_is_named_with_its_row(tmp_path):
    columns = photos(tmp_path)
    columns["file_name"][2] = "some/lost.png"
    data = load_splits(str(table(tmp_path / "list.csv", columns)))["train"]
    with pytest.raises(BiasEnsembleError, match=r"found 1 of 4 .* row 2 \(.*some/lost.png: file not found\)"):
        decode_split(data, 4)


def test_column_of_text_that_names_no_file_is_refused(tmp_path):
    file = table(tmp_path / "list.csv", {"image": ["a.png", "b.png"], "label": [0, 1]})
    with pytest.raises(BiasEnsembleError, match=f"no such file for any row; row 0 would be {tmp_path}/a.png; put"):
        load_splits(str(file))


def test_other_kind_of_file_is_refused(tmp_path):
    (tmp_path / "list.xlsx").write_bytes(b"x")
    with pytest.raises(BiasEnsembleError, match="expected a folder or a table .* found a .xlsx"):
        load_splits(str(tmp_path / "list.xlsx"))


# Parquet, saved data -------------------------------------------------------------------------------------------------


def embedded(label: Value | ClassLabel, names: list) -> datasets.Dataset:
    records = [{"bytes": png(np.full((4, 4, 3), grey, np.uint8)), "path": None} for _, grey in EXPECTED]
    features = Features({"image": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict({"image": records, "label": names}, features=features)


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("label", [Value("string"), ClassLabel(names=["owl", "ant"])])
def test_parquet_with_embedded_images(tmp_path, kind, label):
    names = [name if label == Value("string") else ["owl", "ant"].index(name) for name, _ in EXPECTED]
    embedded(label, names).to_parquet(tmp_path / "train.parquet")
    assert seen(tmp_path if kind == "folder" else tmp_path / "train.parquet") == {"train": EXPECTED}


def test_saved_data_set_without_splits(tmp_path):
    embedded(Value("string"), [name for name, _ in EXPECTED]).save_to_disk(tmp_path / "saved")
    assert seen(tmp_path / "saved") == {"train": EXPECTED}
