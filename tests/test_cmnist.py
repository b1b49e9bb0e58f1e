"""Coloured MNIST, made from a small folder of digits: how many images conflict, in which colours, by which seed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from image_trees import all_bytes
from mnist_files import TEST, TRAIN, build, cmnist, read_split

from hf_biasensemble.cli.main import run_command

# --- counts and colours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "train", "validation"), [("0.5pct", 6, 0), ("1pct", 11, 1), ("2pct", 22, 2), ("5pct", 55, 5)]
)
def test_share_of_conflicting_images_is_exact(coloured_mnist, config, train, validation):
    for split, images, conflicting in (("train", 1_100, train), ("validation", 100, validation)):
        data = read_split(coloured_mnist, config, split)
        assert data["image"].shape == (images, 28, 28, 3) and data["image"].dtype == np.uint8
        assert data["is_conflicting"].sum() == conflicting
        assert np.array_equal(data["is_conflicting"], data["label"] != data["bias_label"])
        assert np.array_equal(data["index"], np.arange(images))
        assert np.ptp(np.bincount(data["label"], minlength=10)) == 0
        assert np.ptp(np.bincount(data["label"][data["is_conflicting"]], minlength=10)) <= 1


def test_images_are_digits_times_the_mean_colour_and_no_digit_is_in_two_splits(exact_mnist, mnist):
    images, labels = mnist
    colored = {}  # every digit in every colour -> its row in the source
    for bias, color in enumerate(cmnist.MEAN_COLORS):
        for row, picture in enumerate(np.floor(images[..., None] * color).astype(np.uint8)):
            colored[bias, picture.tobytes()] = row
    rows = {}
    for config, split in (("50pct", "train"), ("50pct", "validation"), ("shared", "test")):
        data = read_split(exact_mnist, config, split)
        rows[split] = [colored[b, x.tobytes()] for b, x in zip(data["bias_label"], data["image"], strict=True)]
        assert np.array_equal(labels[rows[split]], data["label"])
    train, times = np.unique(rows["train"], return_counts=True)
    assert set(times) == {3}
    assert len(train) == 1_100 and len(set(rows["validation"])) == 100
    assert set(train) | set(rows["validation"]) == set(range(TRAIN)) and len(rows["train"]) == 3_300
    assert sorted(rows["test"]) == list(range(TRAIN, TRAIN + TEST))


def test_each_copy_gets_a_colour_of_its_own(exact_mnist):
    bias = read_split(exact_mnist, "50pct", "train")["bias_label"].reshape(3, 1_100)
    assert 0.4 < np.mean(bias[0] != bias[1]) < 0.9


def chi_square(counts):
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


def test_conflicting_colours_are_uniform_over_the_other_nine(exact_mnist):
    data = read_split(exact_mnist, "50pct", "train")
    shift = (data["bias_label"] - data["label"])[data["is_conflicting"]] % 10
    assert len(shift) == 1_650
    assert chi_square(np.bincount(shift, minlength=10)[1:]) < 26.1  # 0.1% of uniform draws are above


def test_test_colours_are_uniform_whatever_the_label(coloured_mnist):
    data = read_split(coloured_mnist, "shared", "test")
    assert len(data["label"]) == TEST
    assert chi_square(np.bincount(data["bias_label"], minlength=10)) < 27.9  # 0.1% of uniform draws are above
    assert chi_square(np.bincount((data["bias_label"] - data["label"]) % 10, minlength=10)) < 27.9
    assert np.array_equal(data["is_conflicting"], data["label"] != data["bias_label"])


@pytest.mark.parametrize("std", [0.005, 0.05])
def test_colours_lie_around_the_mean_colours(coloured_mnist, mnist_folder, tmp_path, std):
    folder = coloured_mnist
    if std != cmnist.COLOR_STD:
        folder = tmp_path / "cmnist"
        assert build(mnist_folder, folder, "--dataset_config_names", "1pct", "--color_std", str(std)) == 0
    data = read_split(folder, "1pct", "train")
    colors = data["image"].reshape(-1, 784, 3).max(axis=1) / 255  # of the brightest pixel, which is 255 or nearly so
    error = colors - cmnist.MEAN_COLORS[data["bias_label"]]
    assert np.abs(error.mean(axis=0)).max() < 0.01
    assert np.abs(error).max() < 5 * std + 0.03
    inner = np.abs(cmnist.MEAN_COLORS[data["bias_label"]] - 0.5).max(axis=1) < 0.3  # no clipping at 0 or 1
    assert inner.sum() > 100
    for channel in range(3):  # images of one colour only, or the rounding of other colours would add to the spread
        mauve = error[data["bias_label"] == 2, channel]
        assert 0.8 * std < mauve.std() < 1.25 * std + 0.002
    correlation = np.corrcoef(error[data["bias_label"] == 2].T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.5  # each channel has its own noise


# --- reproducibility -------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes_and_another_seed_others(coloured_mnist, mnist_folder, tmp_path):
    assert build(mnist_folder, tmp_path / "again") == 0
    assert build(mnist_folder, tmp_path / "other", "--seed", "1") == 0
    first, again, other = (all_bytes(folder) for folder in (coloured_mnist, tmp_path / "again", tmp_path / "other"))
    assert len(first) == 11  # 4 x (train, validation), test, card, contact sheet
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    # The held out digits differ; so must, within the classes, which images are bias-conflicting.
    assert conflicting_ranks(coloured_mnist, "5pct") != conflicting_ranks(tmp_path / "other", "5pct")


def conflicting_ranks(folder, config):
    data = read_split(folder, config, "train")
    return [np.flatnonzero(data["is_conflicting"][data["label"] == c]).tolist() for c in range(10)]


def test_a_config_does_not_depend_on_the_others(coloured_mnist, mnist_folder, tmp_path):
    assert build(mnist_folder, tmp_path / "one", "--dataset_config_names", "10pct", "2.0pct") == 0
    one, four = all_bytes(tmp_path / "one"), all_bytes(coloured_mnist)
    shared = {name for name in one if name.startswith(("2pct/", "shared/"))}
    assert len(shared) == 3
    assert all(one[name] == four[name] for name in shared)


def test_configs_hold_out_the_same_digits_but_draw_their_own_colours(mnist_folder, tmp_path):
    assert build(mnist_folder, tmp_path / "out", "--dataset_config_names", "5pct", "5.001pct") == 0  # the same counts
    one, two = (read_split(tmp_path / "out", config, "validation") for config in ("5pct", "5.001pct"))
    same = one["bias_label"] == two["bias_label"]
    assert 0 < np.sum(~same) <= 10
    assert np.abs(one["image"][same].astype(int) - two["image"][same]).max() < 20  # only the noise differs
    assert not np.array_equal(one["image"][same], two["image"][same])
    assert conflicting_ranks(tmp_path / "out", "5pct") != conflicting_ranks(tmp_path / "out", "5.001pct")


def test_the_command_on_the_card_makes_the_same_files(coloured_mnist, mnist_folder, tmp_path, monkeypatch):
    text = (coloured_mnist / "README.md").read_text()
    command = re.search(r"```bash\n(hf-biasensemble .*?)\n```", text, re.DOTALL)[1].replace("\\\n", " ")
    program, command, *words = shlex.split(command)
    assert (program, command) == ("hf-biasensemble", "make-dataset")
    monkeypatch.chdir(tmp_path)
    Path("mnist").symlink_to(mnist_folder)
    assert run_command("make_dataset", words) == 0
    assert all_bytes(Path("cmnist")) == all_bytes(coloured_mnist)
