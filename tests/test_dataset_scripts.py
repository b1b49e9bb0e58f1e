"""The scripts for datasets that come as image files, on small trees of real images in their authors' layouts."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic
from fresh_python import fresh_python
from image_trees import (
    ACTIONS,
    NAMES,
    SCRIPTS,
    TOP,
    TREES,
    all_bytes,
    bar_tree,
    bffhq_tree,
    check_error,
    opened,
    run,
    scripts,
    waterbirds_tree,
)
from loaded import load_splits
from PIL import Image

from hf_biasensemble.cli.main import run_command


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Tree and repository of every dataset."""
    made = {}
    for name, make in TREES.items():
        folder = tmp_path_factory.mktemp(name)
        tree = make(folder / TOP.get(name, name))
        assert run(name, tree.root, folder / "out") == 0
        made[name] = (tree, folder / "out")
    return made


@pytest.fixture
def bffhq(tmp_path):
    """A fresh tree to damage; `out` beside it is the output folder."""
    return bffhq_tree(tmp_path / "bffhq").root


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_every_config_holds_the_files_of_its_tree(built, name, tmp_path):
    tree, folder = built[name]
    class_names, bias_names = NAMES[name]
    configs = list(dict.fromkeys(config for config, _ in tree.expected))
    assert datasets.get_dataset_config_names(str(folder)) == configs
    for config in configs:
        data = opened(folder, config, tmp_path)
        assert list(data) == ["train", "validation", "test"]
        for split, rows in data.items():
            expected = tree.expected[config, split]
            assert rows["file_name"][:] == sorted(expected, key=lambda file: ("conflict/" in file, file)) or (
                name == "waterbirds" and sorted(rows["file_name"]) == sorted(expected)
            )
            assert rows["index"][:] == list(range(len(expected)))
            assert rows.features["label"].names == class_names
            for row in rows:
                label, bias_label, conflicting = expected[row["file_name"]]
                assert (row["label"], row.get("bias_label"), row["is_conflicting"]) == (label, bias_label, conflicting)
                assert row["image"]["bytes"] == (tree.root / row["file_name"]).read_bytes()
            if bias_names is None:
                assert "bias_label" not in rows.features
            else:
                assert rows.features["bias_label"].names == bias_names


def test_pixels_decode_as_those_of_the_files(built, tmp_path):
    tree, folder = built["bffhq"]
    rows = datasets.load_dataset(str(folder), "1pct", split="train", cache_dir=str(tmp_path / "cache"))
    assert {Path(name).suffix for name in rows["file_name"]} == {".jpg", ".png"}
    for row in rows:
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(tree.root / row["file_name"])))


def test_bffhq_keeps_both_halves_of_its_test_split(built):
    _, folder = built["bffhq"]
    rows = pq.read_table(folder / "shared" / "test-00000-of-00001.parquet")
    assert sum(rows["is_conflicting"].to_pylist()) == 2 and len(rows) == 6


@pytest.mark.parametrize("name", TREES)
def test_card_counts_every_class_and_names_the_licence(built, name):
    tree, folder = built[name]
    text = (folder / "README.md").read_text()
    assert "license: unknown" in text and "Licence: unknown" in text
    class_names, _ = NAMES[name]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    shared = {path.name.split("-")[0] for path in folder.glob("shared/*")}
    for (config, split), files in tree.expected.items():
        shown = "all" if split in shared else config
        by_class = [
            [sum(v[::2] == (c, conflict) for v in files.values()) for conflict in (False, True)] for c in range(10)
        ]
        cells = [f"{a} + {c}" for a, c in by_class[: len(class_names)]]
        assert [line[5:] for line in table if line[:3] == [shown, split, str(len(files))]] == [cells]
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert np.asarray(sheet).std() > 10


@pytest.mark.parametrize("name", TREES)
def test_a_second_run_writes_the_same_bytes(built, name, tmp_path):
    tree, folder = built[name]
    shutil.copytree(tree.root, tmp_path / "elsewhere" / tree.root.name)  # found in the folder above it, too
    assert run(name, tmp_path / "elsewhere", tmp_path / "again") == 0
    again = all_bytes(tmp_path / "again")
    assert len(again) >= 5 and again == all_bytes(folder)


def test_the_library_reads_what_the_scripts_write(built):
    splits = load_splits(str(built["bar"][1]), "5pct")
    assert splits["train"].bias_labels is None and splits["train"].class_names == ACTIONS
    assert splits["train"].is_conflicting.sum() == 10
    splits = load_splits(str(built["dogs_and_cats"][1]), "1pct")
    assert np.array_equal(splits["test"].is_conflicting, splits["test"].labels.numpy() != splits["test"].bias_labels)


def test_one_severity_is_enough(bffhq, tmp_path):
    for severity in ("1pct", "2pct", "5pct"):
        shutil.rmtree(bffhq / severity)
    assert run("bffhq", bffhq, tmp_path / "out", "--dataset_config_names", "0.50pct") == 0
    assert datasets.get_dataset_config_names(str(tmp_path / "out")) == ["0.5pct"]


def test_hidden_files_are_passed_over(bffhq, built, tmp_path):
    for place in ("test", "1pct/align/0"):
        (bffhq / place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert run("bffhq", bffhq, tmp_path / "out") == 0
    assert all_bytes(tmp_path / "out") == all_bytes(built["bffhq"][1])


# --- mistakes in the authors' trees ---------------------------------------------------------------------------------


def renamed(old, new):
    def damage(root):
        (root / old).rename(root / new)

    return damage


def overwritten(content):
    return lambda root: (root / "1pct/align/1/001_1_1.png").write_bytes(content)


def emptied(*patterns):
    return lambda root: [file.unlink() for pattern in patterns for file in root.glob(pattern)]


WHOLE = synthetic.encoded(Image.effect_noise((64, 64), 90), "JPEG")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: shutil.rmtree(root / "2pct" / "conflict"), ["2pct/align/, 2pct/conflict/, valid/, test/"]),
        (lambda root: shutil.rmtree(root / "valid"), ["no folder valid", "bffhq/ with"]),
        (emptied("test/*"), ["no files", "test"]),
        (renamed("valid/001_0_1.png", "valid/001.png"), ["valid/001.png", "_<label>_<bias label>"]),
        (renamed("valid/001_0_1.png", "valid/001_0_x.png"), ["valid/001_0_x.png", "_<label>_<bias label>"]),
        (renamed("valid/001_0_1.png", "valid/001_0_2.png"), ["labels 0 to 1", "found 2", "001_0_2.png"]),
        (renamed("test/001_1_0.png", "test/001_7_0.png"), ["labels 0 to 1", "found 7", "001_7_0.png"]),
        (
            renamed("1pct/align/1/001_1_1.png", "1pct/align/1/001_1_0.png"),
            ["equal labels", "1pct/align", "001_1_0.png"],
        ),
        (
            renamed("5pct/conflict/1/001_1_0.png", "5pct/conflict/1/001_1_1.png"),
            ["different labels", "5pct/conflict", "001_1_1.png"],
        ),
        (overwritten(b""), ["1pct/align/1/001_1_1.png", "an empty file"]),
        (overwritten(b"no picture"), ["1pct/align/1/001_1_1.png", "none that can be read"]),
        (overwritten(WHOLE[: len(WHOLE) // 2]), ["1pct/align/1/001_1_1.png", "truncated"]),
        (emptied("1pct/*/1/*"), ["every class", "none of old", "train of 1pct"]),
        (emptied("test/*_0_0.*", "test/*_0_1.*"), ["every class", "none of young", "test"]),
    ],
)
def test_a_damaged_tree_is_an_error_of_one_line(bffhq, tmp_path, capsys, damage, words):
    damage(bffhq)
    assert run("bffhq", bffhq, tmp_path / "out") == 2
    check_error(capsys, "bffhq", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["bffhq"]


def test_the_folder_decides_for_bar_whose_names_carry_no_bias_label(tmp_path):
    tree = bar_tree(tmp_path / "bar")
    file = next((tree.root / "train" / "conflict" / "1pct").glob("*/*"))
    label = file.stem.split("_")[1]
    file.rename(file.with_name(f"900_{label}_{label}{file.suffix}"))
    assert run("bar", tree.root, tmp_path / "out") == 0
    rows = pq.read_table(tmp_path / "out" / "1pct" / "train-00000-of-00001.parquet").to_pylist()
    assert [row["is_conflicting"] for row in rows if "/900_" in row["file_name"]] == [True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--source_dir or --archive", "neither"]),
        (["--source_dir", ".", "--archive", "x.zip"], ["--source_dir or --archive", "both"]),
        (["--source_dir", "nowhere"], ["--source_dir", "nowhere"]),
        (["--archive", "nowhere.zip"], ["--archive", "nowhere.zip"]),
        (["--source_dir", ".", "--dataset_config_names", "1"], ["'1'", "'1pct'"]),
        (["--source", "hub"], ["--source", "'hub'"]),
    ],
)
def test_wrong_options_are_an_error_of_one_line(tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert scripts["bffhq"].main([*options, "--output_dir", str(tmp_path / "out")]) == 2
    check_error(capsys, "bffhq", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cmnist", ["--copies", "2"]),
        ("cmnist", ["--seed", "1"]),
        ("bar", ["--seed", "0"]),
        ("bar", ["--validation_share", "0.1"]),
    ],
)
def test_options_that_the_authors_files_leave_no_room_for(built, name, options, tmp_path, capsys):
    assert run(name, built[name][0].root, tmp_path / "out", *options) == 2
    check_error(capsys, name, options[0], "authors")


def test_exit_status_and_help_of_the_program(tmp_path):
    script = SCRIPTS / "dogs_and_cats.py"
    done = fresh_python(script, "--source_dir", "nowhere", "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("dogs_and_cats.py: error: ")
    done = fresh_python(script, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "--max_unpacked_size" in done.stdout and "Make Dogs & Cats" in done.stdout


def test_help_of_a_dataset_lists_its_options_and_the_shared_ones(capsys):
    with pytest.raises(SystemExit) as done:
        run_command("make_dataset", ["cmnist", "--help"])
    listed = capsys.readouterr().out
    assert done.value.code == 0
    assert all(
        option in listed for option in ("--source_dir", "--dataset_config_names", "--copies", "--hub_dataset_id")
    )


# --- Waterbirds -----------------------------------------------------------------------------------------------------


def replaced(old, new):
    def damage(root):
        text = (root / "metadata.csv").read_text()
        assert old in text
        (root / "metadata.csv").write_text(text.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "metadata.csv").unlink(), ["found no metadata.csv"]),
        (replaced("place,", "background,"), ["img_filename, y, split, place", "no place"]),
        (replaced("bird 1.jpg,1,", "bird 1.jpg,2,"), ["line 3", "0, 1 as y", "'2'"]),
        (replaced("bird 0.jpg,0,0,", "bird 0.jpg,0,3,"), ["line 2", "0, 1, 2 as split", "'3'"]),
        (replaced("bird 0.jpg,0,0,0", "bird 0.jpg,0,0,"), ["line 2", "as place", "''"]),
        (replaced("bird 4.jpg", "bird 0.jpg"), ["line 6", "none", "bird 0.jpg"]),
        (replaced("001.Some_bird/bird 4.jpg", "000.Some_bird/bird 0.jpg"), ["line 6", "listed twice"]),
        (replaced("000.Some_bird/bird 0.jpg", "../outside.jpg"), ["line 2", "../outside.jpg"]),
        (lambda root: (root / "000.Some_bird" / "bird 3.jpg").write_bytes(b""), ["bird 3.jpg", "an empty file"]),
        (lambda root: (root / "metadata.csv").write_bytes(b"\xff\xfe\0y"), ["metadata.csv", "UTF-8"]),
    ],
)
def test_waterbirds_refuses_damage(tmp_path, capsys, damage, words):
    root = waterbirds_tree(tmp_path / "birds").root
    shutil.copy(root / "000.Some_bird" / "bird 0.jpg", tmp_path / "outside.jpg")
    damage(root)
    assert run("waterbirds", root, tmp_path / "out") == 2
    check_error(capsys, "waterbirds", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds", "outside.jpg"]
