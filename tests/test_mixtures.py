"""Folders with metadata.csv that are mixed to a stated fraction of conflicting images and tested on balanced cells."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_trees import Tree, all_bytes, check_error, opened, run

FUR = {("cat", "bright"): 60, ("cat", "dark"): 20, ("dog", "dark"): 40, ("dog", "bright"): 15}


@pytest.fixture(scope="module")
def fur(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "dogs_and_cats_fur"
    tree, lines = Tree(root), []
    for (label, bias), count in FUR.items():
        for number in range(count):
            name = f"images/{label}.{bias}.{number}.jpg"
            tree.add(name, [], number, None, False)
            lines.append([bias, name, label])
    with open(root / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["fur", "file_name", "label"], *lines])
    return root


def mixed(root, out, *options):
    assert run("dogs_and_cats_fur", root, out, "--test_per_cell", "5", *options) == 0
    return {path.relative_to(out).as_posix().split("-")[0]: pq.read_table(path) for path in out.glob("*/*.parquet")}


def cells(table):
    return [tuple(name.split("/")[1].split(".")[:2]) for name in table["file_name"].to_pylist()]


def test_splits_have_the_stated_cells(fur, tmp_path):
    tables = mixed(fur, tmp_path / "out", "--dataset_config_names", "5pct", "10pct", "--validation_share", "0.2")
    assert {cell: cells(tables["shared/test"]).count(cell) for cell in FUR} == dict.fromkeys(FUR, 5)
    for config, fraction in (("5pct", 0.05), ("10pct", 0.1)):
        parts = [tables[f"{config}/train"], tables[f"{config}/validation"], tables["shared/test"]]
        names = [name for part in parts for name in part["file_name"].to_pylist()]
        assert len(names) == len(set(names))  # no image is in two splits
        for part, (cats, dogs) in zip(parts, ((44, 28), (11, 7)), strict=False):  # of 55 and 35 a fifth is held out
            counts = {cell: cells(part).count(cell) for cell in FUR}
            assert (counts["cat", "bright"], counts["dog", "dark"]) == (cats, dogs)
            conflicting = counts["cat", "dark"] + counts["dog", "bright"]
            assert conflicting == round((cats + dogs) * fraction / (1 - fraction))
            assert sum(part["is_conflicting"].to_pylist()) == conflicting
    held_out = [
        [n for n, c in zip(t["file_name"].to_pylist(), t["is_conflicting"].to_pylist(), strict=True) if not c]
        for t in (tables["5pct/validation"], tables["10pct/validation"])
    ]
    assert held_out[0] == held_out[1]
    data = opened(tmp_path / "out", "10pct", tmp_path)
    for rows in data.values():
        classes, biases = rows.features["label"].names, rows.features["bias_label"].names
        assert (classes, biases) == (["cat", "dog"], ["bright", "dark"])
        for row in rows:
            expected = f"images/{classes[row['label']]}.{biases[row['bias_label']]}."
            assert row["file_name"].startswith(expected)
            assert row["is_conflicting"] == (row["label"] != row["bias_label"])
            assert row["image"]["bytes"] == (fur / row["file_name"]).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--test_per_cell 5" in card and "--validation_share 0.2 --seed 0" in card


def test_the_mixture_follows_its_seed(fur, tmp_path):
    options = ("--dataset_config_names", "10pct", "--seed")
    first, again = (mixed(fur, tmp_path / out, *options, "3") for out in ("first", "again"))
    assert all_bytes(tmp_path / "first") == all_bytes(tmp_path / "again") and len(first) == 3
    other = mixed(fur, tmp_path / "other", *options, "4")
    for split, table in first.items():
        assert len(table) == len(other[split])
        assert set(table["file_name"].to_pylist()) != set(other[split]["file_name"].to_pylist())


def test_isic_rulers_has_its_own_columns(tmp_path):
    tree, rows = Tree(tmp_path / "isic_rulers"), [["file_name", "label", "ruler", "is_conflicting"]]
    for number in range(80):
        name = f"images/ISIC_{number:07d}.jpg"
        tree.add(name, [], number, None, False)
        rows.append([name, ("benign", "malignant")[number % 2], ("none", "ruler")[number // 2 % 2], "0"])
    with open(tree.root / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    out = tmp_path / "out"
    assert run("isic_rulers", tree.root, out, "--dataset_config_names", "20pct", "--test_per_cell", "4") == 0
    table = pq.read_table(out / "20pct" / "train-00000-of-00001.parquet")
    number = np.array([int(name[-11:-4]) for name in table["file_name"].to_pylist()])
    assert np.array_equal(table["label"], number % 2)
    assert np.array_equal(table["bias_label"], number // 2 % 2)
    assert np.array_equal(table["is_conflicting"], number % 2 != number // 2 % 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--test_per_cell", "15"], ["--test_per_cell", "15 images of dog with fur bright", "found 15"]),
        (["--test_per_cell", "0"], ["--test_per_cell", "found 0"]),
        (["--test_per_cell", "5", "--dataset_config_names", "0.1pct"], ["at least one", "0.1pct"]),
        (["--test_per_cell", "14", "--dataset_config_names", "20pct"], ["of cat", "found 6;", "lower severity"]),
        (["--test_per_cell", "5", "--seed", "-1"], ["--seed", "-1"]),
    ],
)
def test_what_cannot_be_mixed_is_an_error_of_one_line(fur, tmp_path, capsys, options, words):
    assert run("dogs_and_cats_fur", fur, tmp_path / "out", *options) == 2
    check_error(capsys, "dogs_and_cats_fur", *words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_value_is_named_with_its_line(fur, tmp_path, capsys):
    root = Path(shutil.copytree(fur, tmp_path / "fur"))
    text = (fur / "metadata.csv").read_text().splitlines()
    text[60] = text[60].replace("bright", "grey")
    (root / "metadata.csv").write_text("\n".join(text))
    assert run("dogs_and_cats_fur", root, tmp_path / "out") == 2
    check_error(capsys, "dogs_and_cats_fur", "bright, dark as fur", "line 61", "'grey'")
