"""What the check-data command says of a dataset."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from loaded import load_splits
from PIL import Image
from runs import train
from synthetic import class_folders, photo

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.internal.errors import BiasEnsembleError


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


def test_tables_are_indented_below_their_split(digits, capsys):
    assert run_command("check_data", ["--dataset_name", str(digits)]) == 0
    _, after = capsys.readouterr().out.split("train: 96 images, 4 classes\n")
    table, _ = after.split("\n\n", 1)
    assert all(line.startswith("  ") and line.strip() for line in table.splitlines()) and table.count("\n") == 4


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


def test_the_plan_is_printed_written_to_the_config_and_stated_on_the_card(digits, tmp_path, capsys):
    _, checked = check(capsys, digits)
    assert train(digits, tmp_path / "out", max_steps=2) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    plan = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["reading"]
    assert plan[0] == "classes: 4, from column label: bar, pole, cross, square"
    assert checked[1 : len(plan) + 1] == plan and [line for line in plan if line not in printed] == []
    assert f"- {plan[0]}" in (tmp_path / "out" / "README.md").read_text()
