"""One's own images, in each layout people have them; splits that are cut out; what check-data says of them."""

import csv
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, Value
from PIL import Image
from synthetic import coloured_digits, png

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.held_out import hold_out
from hf_biasensemble.data.loading import ColumnNames, load_splits
from hf_biasensemble.data.pixels import ImageSplit, decode_split
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.errors import BiasEnsembleError

GREY = {"ant": 40, "owl": 200}


def photo(file: Path, grey: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(np.full((4, 4, 3), grey, dtype=np.uint8)))
    return file


def seen(name: Path | str, **columns) -> dict[str, list[tuple[str, int]]]:
    """Class and grey value of each image of each split."""
    splits = load_splits(str(name), columns=ColumnNames(**columns))
    greys = {split: decode_split(data, 4).pixels[:, 0, 0, 0].tolist() for split, data in splits.items()}
    return {
        split: [(data.class_names[label], grey) for label, grey in zip(data.labels, greys[split], strict=True)]
        for split, data in splits.items()
    }


EXPECTED = [("ant", 40), ("ant", 41), ("owl", 200), ("owl", 201)]


# Class folders -------------------------------------------------------------------------------------------------------


def class_folders(folder: Path, names: dict[str, int] = GREY, file: str = "{}.png") -> Path:
    for name, grey in names.items():
        for number in range(2):
            photo(folder / name / file.format(number), grey + number)
    return folder


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


def test_classes_that_are_all_called_like_splits_are_classes(tmp_path):
    class_folders(tmp_path, {"test": 0, "train": 100})
    assert seen(tmp_path) == {"train": [("test", 0), ("test", 1), ("train", 100), ("train", 101)]}


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
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("left out: 2 .heic, 1 .txt")


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


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_table_with_a_column_of_paths_of_any_name(tmp_path, name):
    columns = photos(tmp_path)
    columns["path"] = columns.pop("file_name")
    assert seen(table(tmp_path / name, columns), image="path") == {"train": EXPECTED}


def test_absolute_paths_and_other_label_column(tmp_path):
    columns = photos(tmp_path / "images")
    files = [str(tmp_path / "images" / file) for file in columns["file_name"]]
    file = table(tmp_path / "elsewhere" / "list.csv", {"file_name": files, "kind": columns["label"]})
    assert seen(file, label="kind") == {"train": EXPECTED}


def test_metadata_in_each_split_folder(tmp_path):
    for split in ("train", "val"):
        table(tmp_path / split / "metadata.csv", photos(tmp_path / split))
    assert seen(tmp_path) == {"train": EXPECTED, "validation": EXPECTED}


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
    split = load_splits(str(file), columns=ColumnNames(bias_label="place"))["train"]
    assert split.bias_labels.tolist() == [0, 1, 1, 0] and split.bias_names == ["land", "sea"]
    assert split.is_conflicting is None
    split = load_splits(str(file), columns=ColumnNames(is_conflicting="odd"))["train"]
    assert split.is_conflicting.tolist() == [False, True, False, True] and split.bias_labels is None


def test_file_that_is_not_there_is_named_with_its_row(tmp_path):
    columns = photos(tmp_path)
    columns["file_name"][2] = "some/lost.png"
    data = load_splits(str(table(tmp_path / "list.csv", columns)))["train"]
    with pytest.raises(BiasEnsembleError, match=r"found 1 of 4 .* row 2 \(.*some/lost.png: file not found\)"):
        decode_split(data, 4)


def test_column_of_text_that_names_no_file_is_refused(tmp_path):
    file = table(tmp_path / "list.csv", {"image": ["a.png", "b.png"], "label": [0, 1]})
    with pytest.raises(BiasEnsembleError, match="'image' to hold images, found Value.'string'.*paths of files count"):
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


# Splits cut out of the training split --------------------------------------------------------------------------------


def image_split(labels: list[int], rows: list[int] | None = None) -> ImageSplit:
    count = len(labels)
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    chosen = torch.arange(count) if rows is None else torch.tensor(rows)
    return ImageSplit(pixels, torch.tensor(labels), [str(n) for n in range(max(labels) + 1)], chosen)


def rows_of(splits: dict[str, ImageSplit]) -> dict[str, set[int]]:
    return {name: set(split.rows.tolist()) for name, split in splits.items()}


def counts(split: ImageSplit) -> list[int]:
    return np.bincount(split.measured_by()["labels"], minlength=len(split.class_names)).tolist()


MIXED = [0] * 60 + [1] * 30 + [2] * 10


def test_missing_splits_are_cut_in_proportion_and_apart():
    splits = hold_out({"train": image_split(MIXED)}, 0.1, 0.2, seed=0)
    assert list(splits) == ["train", "validation", "test"]
    assert {name: counts(split) for name, split in splits.items()} == {
        "train": [42, 21, 7],
        "validation": [6, 3, 1],
        "test": [12, 6, 2],
    }
    rows = rows_of(splits)
    assert set.union(*rows.values()) == set(range(100)) and sum(map(len, rows.values())) == 100


def test_index_stays_the_row_in_the_split_as_loaded():
    whole = image_split(MIXED)
    for split in hold_out({"train": whole}, 0.1, 0.2, seed=0).values():
        batch = split.__getitems__(range(len(split)))
        assert torch.equal(batch["pixel_values"][:, 0, 0, 0].long(), batch["index"])
        assert torch.equal(batch["labels"], whole.labels[batch["index"]])


def test_same_seed_cuts_the_same_and_another_seed_others():
    first, again, other = (rows_of(hold_out({"train": image_split(MIXED)}, 0.1, 0.2, seed)) for seed in (3, 3, 4))
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_only_the_missing_split_is_cut(capsys):
    test = image_split([0, 1, 2])
    splits = hold_out({"train": image_split(MIXED), "test": test}, 0.1, 0.2, seed=0)
    assert splits["test"] is test and counts(splits["validation"]) == [6, 3, 1]
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "no validation split: of 100 training images, 10 for validation (--validation_share 0.1), --split_seed 0"
    )


def test_nothing_is_cut_or_said_where_nothing_is_to_be(capsys):
    whole = {"train": image_split(MIXED), "validation": image_split(MIXED), "test": image_split(MIXED)}
    assert hold_out(whole, 0.1, 0.1, seed=0) is whole
    alone = {"train": image_split(MIXED)}
    assert hold_out(alone, 0, 0, seed=0) is alone
    assert hold_out({"test": whole["test"]}, 0.1, 0.1, seed=0).keys() == {"test"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.45, 0.45), (0.5, 0.4)])
def test_small_classes_keep_a_training_image(shares):
    labels = [0] * 40 + [1, 2, 2, 3, 3, 3]
    splits = hold_out({"train": image_split(labels)}, *shares, seed=1)
    assert min(counts(splits["train"])) >= 1
    assert sum(len(split) for split in splits.values()) == len(labels)


def test_many_small_classes_still_give_a_split():
    splits = hold_out({"train": image_split([number // 4 for number in range(40)])}, 0.1, 0, seed=0)
    assert len(splits["validation"]) == 4 and max(counts(splits["validation"])) == 1


def test_too_few_images_give_no_split():
    assert hold_out({"train": image_split([0, 1])}, 0.5, 0, seed=0).keys() == {"train"}


def test_images_that_were_left_out_are_in_no_part():
    rows = [row for row in range(100) if row % 7]
    parts = rows_of(hold_out({"train": image_split(MIXED, rows)}, 0.1, 0.2, seed=0))
    assert set.union(*parts.values()) == set(rows)


def test_bias_labels_do_not_steer_the_cut(tmp_path):
    plain, shuffled = coloured_digits(tmp_path / "a"), coloured_digits(tmp_path / "b", shuffled_bias=True)
    parts = []
    for folder in (plain, shuffled):
        for split in ("validation", "test"):
            (folder / f"{split}.parquet").unlink()
        parts.append(load_image_splits(DataArguments(dataset_name=str(folder)), 8))
    assert rows_of(parts[0]) == rows_of(parts[1])
    assert parts[0]["train"].bias_labels.tolist() != parts[1]["train"].bias_labels.tolist()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"validation_share": 1.0}, "--validation_share: expected in"),
        ({"test_share": -0.1}, "--test_share: expected in"),
        ({"validation_share": 0.5, "test_share": 0.5}, "below 1 together"),
        ({"split_seed": -1}, "--split_seed: expected 0 or more"),
        ({"pixel_memory_limit": "much"}, "--pixel_memory_limit: expected bytes, such as 4GB"),
        ({"pixel_memory_limit": "4iB"}, "--pixel_memory_limit: expected bytes, such as 4GB"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(BiasEnsembleError, match=message):
        DataArguments(dataset_name="x", **changes)


@pytest.mark.parametrize(
    "text, size", [("0", 0), ("123", 123), ("4GB", 4 * 10**9), ("1.5 kb", 1500), ("2MiB", 2 * 2**20), ("1g", 10**9)]
)
def test_memory_sizes(text, size):
    assert DataArguments(dataset_name="x", pixel_memory_limit=text).pixel_memory_bytes() == size


def test_memory_limit_decides_where_the_pixels_are(digits):
    size = (96 + 32 + 64) * 3 * 8 * 8
    for limit, kind in ((size, "Tensor"), (size - 1, "MappedPixels")):
        splits = load_image_splits(DataArguments(dataset_name=str(digits), pixel_memory_limit=str(limit)), 8)
        assert {type(split.pixels).__name__ for split in splits.values()} == {kind}


# check-data ----------------------------------------------------------------------------------------------------------


def check(capsys, data: Path | str, *words: str) -> tuple[int, list[str]]:
    status = run_command("check_data", ["--dataset_name", str(data), *words])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, [" ".join(line.split()) for line in captured.out.splitlines()]


def test_check_data_counts_by_class_and_bias(digits, capsys):
    status, lines = check(capsys, digits)
    assert status == 0
    split = load_splits(str(digits))["train"]
    expected = np.zeros((4, 4), dtype=int)
    np.add.at(expected, (split.labels, split.bias_labels), 1)
    start = lines.index("train: 96 images, 4 classes")
    assert lines[start + 1] == "class red green blue yellow"
    for number, name in enumerate(split.class_names):
        assert lines[start + 2 + number] == " ".join([name, *map(str, expected[number])])
    assert "validation: 32 images, 4 classes" in lines and "test: 64 images, 4 classes" in lines
    assert lines[-1].startswith("files of test: width 28 to 28") and lines[-1].endswith("64 PNG RGB")


def test_check_data_shows_cut_splits_bad_images_and_a_contact_sheet(tmp_path, capsys):
    folder = tmp_path / "data"
    for number in range(20):
        photo(folder / ("ant", "owl")[number % 2] / f"{number:02}.png", 100 + number)
    (folder / "owl" / "bad.png").write_bytes(b"")
    Image.new("L", (30, 7)).save(folder / "ant" / "wide.png")
    status, lines = check(capsys, folder, "--output_dir", str(tmp_path / "out"), "--validation_share", "0.2")
    assert status == 1
    assert "train: 15 images, 2 classes" in lines and "validation: 4 images, 2 classes" in lines
    assert f"unreadable: train row 21 ({folder}/owl/bad.png: empty file)" in lines
    assert "files of train: width 4 to 30 (median 4), height 4 to 7 (median 4) pixels; 20 PNG RGB, 1 PNG L" in lines
    assert lines[-1].startswith("training would stop: 1 unreadable images")
    rows = list(csv.reader((tmp_path / "out" / "dropped_images.csv").open(newline="")))
    assert rows == [["split", "row", "file", "reason"], ["train", "21", f"{folder}/owl/bad.png", "empty file"]]
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(sheet.width * sheet.height)}
    assert {(100 + number,) * 3 for number in range(6)} & colours
    assert check(capsys, folder, "--skip_unreadable_images", "true")[0] == 0


def test_check_data_tells_of_a_class_without_readable_images(tmp_path, capsys):
    class_folders(tmp_path, {"ant": 1, "owl": 2, "yak": 3})
    for file in (tmp_path / "yak").iterdir():
        file.write_bytes(b"words")
    status, lines = check(capsys, tmp_path, "--skip_unreadable_images", "true")
    assert status == 1 and "training would stop: split train has no readable image of yak" in lines
    with pytest.raises(BiasEnsembleError, match=r"readable images of every class, found none of yak.*0.png: not an"):
        load_image_splits(DataArguments(dataset_name=str(tmp_path), skip_unreadable_images=True), 4)


# Training ------------------------------------------------------------------------------------------------------------


def test_training_and_testing_see_the_same_cut(tmp_path, capsys):
    folder, out = tmp_path / "data", tmp_path / "out"
    for number in range(60):
        photo(folder / ("ant", "owl")[number % 2] / f"{number:02}.png", 20 + 3 * number)
    (folder / "owl" / "59.png").write_bytes(b"")
    words = ["--dataset_name", str(folder), "--skip_unreadable_images", "true"]
    training = "--method erm --max_steps 4 --eval_steps 2 --per_device_train_batch_size 8 --use_cpu true"
    training += f" --disable_tqdm true --split_seed 7 --output_dir {out}"
    assert run_command("train", [*words, *training.split()]) == 0
    rows = list(csv.DictReader((out / "dropped_images.csv").open(newline="")))
    assert [(row["split"], row["row"], row["reason"]) for row in rows] == [("train", "59", "empty file")]
    results = json.loads((out / "all_results.json").read_text())
    file = tmp_path / "test.json"
    test = ["--model", str(out), "--split", "test", "--split_seed", "7", "--output_file", str(file)]
    assert run_command("test", [*words, *test]) == 0
    assert json.loads(file.read_text())["test_accuracy"] == pytest.approx(results["test_accuracy"])
