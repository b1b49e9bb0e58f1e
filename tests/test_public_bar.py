"""BAR from its public source: mixed to a stated share of bias-conflicting images, and what cannot be mixed."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_trees import ACTIONS, Tree, all_bytes, check_error, opened, run


@pytest.fixture(scope="module")
def alinlab(tmp_path_factory):
    root = tmp_path_factory.mktemp("alinlab") / "BAR"
    tree = Tree(root)
    for label, action in enumerate(ACTIONS):
        for number in range(20 + label):
            tree.add(f"train/{action}_{number}.jpg", [], label, None, False)
        for number in range(50, 58):
            tree.add(f"test/{action}_{number}.jpg", [], label, None, True)
    return root


def mix(alinlab, out, *options):
    assert run("bar", alinlab, out, "--source", "alinlab", *options) == 0
    return {path.relative_to(out).as_posix().split("-")[0]: pq.read_table(path) for path in out.glob("*/*.parquet")}


def file_names(table):
    return table["file_name"].to_pylist()


def test_public_bar_is_mixed_to_the_stated_shares(alinlab, tmp_path):
    tables = mix(alinlab, tmp_path / "out", "--dataset_config_names", "5pct", "10pct", "--validation_share", "0.2")
    everything = sorted(path.relative_to(alinlab).as_posix() for path in alinlab.rglob("*.jpg"))
    assert len(everything) == 135 + 48
    for config, share in (("5pct", 0.05), ("10pct", 0.1)):
        names = [file_names(tables[f"{config}/{split}"]) for split in ("train", "validation", "test")]
        assert sorted(sum(names, [])) == everything  # each image once: none lost, none in two splits
        for split, aligned in (("train", 108), ("validation", 27)):  # 135 bias-aligned images, a fifth held out
            table = tables[f"{config}/{split}"]
            conflicting = np.array(table["is_conflicting"])
            assert np.sum(~conflicting) == aligned and conflicting.sum() == round(aligned * share / (1 - share))
            assert [name.startswith("test/") for name in file_names(table)] == conflicting.tolist()
        labels = np.array(tables[f"{config}/train"]["label"])
        moved = np.array(tables[f"{config}/train"]["is_conflicting"])
        assert np.ptp(np.bincount(labels[moved], minlength=6)) <= 1
        assert all(tables[f"{config}/test"]["is_conflicting"].to_pylist())
        for table in (tables[f"{config}/{split}"] for split in ("train", "validation", "test")):
            for row in table.to_pylist():
                assert row["image"]["bytes"] == (alinlab / row["file_name"]).read_bytes()
                assert row["file_name"].split("/")[1].startswith(f"{ACTIONS[row['label']]}_")
    held_out = [
        [n for n in file_names(tables[f"{c}/validation"]) if n.startswith("train/")] for c in ("5pct", "10pct")
    ]
    assert held_out[0] == held_out[1]
    data = opened(tmp_path / "out", "10pct", tmp_path)
    assert data["test"].features["label"].names == ACTIONS and "bias_label" not in data["test"].features
    card = (tmp_path / "out" / "README.md").read_text()
    assert "This is not the authors' split" in card and "--validation_share 0.2 --seed 0" in card


def test_public_bar_follows_its_seed(alinlab, tmp_path):
    options = ("--dataset_config_names", "10pct", "--seed")
    first, again = (mix(alinlab, tmp_path / out, *options, "3") for out in ("first", "again"))
    assert all_bytes(tmp_path / "first") == all_bytes(tmp_path / "again")
    other = mix(alinlab, tmp_path / "other", *options, "4")
    for split in ("train", "validation", "test"):
        assert sorted(file_names(first[f"10pct/{split}"])) != sorted(file_names(other[f"10pct/{split}"]))
        assert len(first[f"10pct/{split}"]) == len(other[f"10pct/{split}"])
    held_out = [[n for n in file_names(t["10pct/validation"]) if n.startswith("train/")] for t in (first, other)]
    assert held_out[0] != held_out[1]
    more = mix(alinlab, tmp_path / "more", "--dataset_config_names", "5pct", "10pct", "--seed", "3")
    assert all(more[name].equals(table) for name, table in again.items())  # no config depends on the others


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset_config_names", "0.1pct"], ["at least one", "0.1pct", "121"]),
        (["--dataset_config_names", "30pct"], ["more than", "30pct", "found 8", "lower severity"]),
        (
            ["--dataset_config_names", "27pct"],
            ["more than 8", "27pct (train)", "found 8"],
        ),  # none would be left to test with
        (["--dataset_config_names", "one"], ["'one'", "<number>pct"]),
        (["--validation_share", "0"], ["--validation_share", "found 0"]),
        (["--validation_share", "0.7"], ["--validation_share", "0.7"]),
        (["--validation_share", "nan"], ["--validation_share", "nan"]),
        (["--validation_share", "0.01"], ["--validation_share", "none of climbing"]),
        (["--seed", "-1"], ["--seed", "-1"]),
    ],
)
def test_public_bar_refuses_what_cannot_be_mixed(alinlab, tmp_path, capsys, options, words):
    assert run("bar", alinlab, tmp_path / "out", "--source", "alinlab", *options) == 2
    check_error(capsys, "bar", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "train" / "climbing.jpg").touch(), ["climbing.jpg", "<class>_<number>"]),
        (lambda root: (root / "train" / "sailing_3.jpg").touch(), ["sailing_3.jpg", "pole vaulting"]),
        (lambda root: [file.unlink() for file in root.glob("test/pole*")], ["every class", "pole vaulting", "test"]),
        (lambda root: shutil.rmtree(root / "test"), ["train/ and test/", "no folder test"]),
    ],
)
def test_public_bar_refuses_other_trees(alinlab, tmp_path, capsys, damage, words):
    shutil.copytree(alinlab, tmp_path / "BAR")
    damage(tmp_path / "BAR")
    assert run("bar", tmp_path / "BAR", tmp_path / "out", "--source", "alinlab") == 2
    check_error(capsys, "bar", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["BAR"]
