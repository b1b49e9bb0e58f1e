"""Dataset repositories: their files, cards and contact sheets, and their way to the Hub and back."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic
import yaml
from fresh_python import WITHOUT_LIBRARY, fresh_python
from huggingface_hub import DatasetCard
from image_trees import all_bytes
from mnist_files import SCRIPT, TEST, cmnist, read_split
from PIL import Image

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.benchmark_datasets import repository
from hf_biasensemble.benchmark_datasets.repository import SHARED
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.folders.output_folder import REPOSITORY_PLACEHOLDER


def columns(count):
    return {"label": np.arange(count) % 2, "is_conflicting": np.arange(count) % 3 == 0}


def test_images_are_written_in_row_groups_and_in_order(tmp_path):
    images = [bytes([number]) * 3 for number in range(250)]
    repository.DatasetRepository(tmp_path, ["a", "b"]).write_split("train", iter(images), columns(250), "1pct")
    file = pq.ParquetFile(tmp_path / "1pct" / "train-00000-of-00001.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [100, 100, 50]
    rows = file.read().to_pylist()
    assert [row["image"]["bytes"] for row in rows] == images
    assert [(row["index"], row["label"]) for row in rows] == [(number, number % 2) for number in range(250)]


@pytest.mark.parametrize("count", [3, 5])
def test_as_many_images_as_labels_are_needed(tmp_path, count):
    images = [synthetic.png(np.zeros((4, 4), np.uint8))] * count
    with pytest.raises(ValueError):
        repository.DatasetRepository(tmp_path, ["a", "b"]).write_split("train", images, columns(4))


def test_contact_sheet_shows_images_upright(tmp_path):
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[:, :40] = 255, 0, 0  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left half is the upper one
    content = synthetic.encoded(Image.fromarray(pixels), "PNG", exif=exif)
    sheet = np.asarray(repository.contact_sheet({(0, False): [content]}, ["a"], "title")).astype(int)
    rows, _ = np.nonzero((sheet[..., 0] > 200) & (sheet[..., 1] < 50))
    black = np.nonzero(sheet[72:].sum(axis=2) < 30)[0] + 72
    assert len(rows) > 3_000 and rows.max() - rows.min() < 60 and np.median(black) > rows.max()


# --- cards and configs, of Coloured MNIST ----------------------------------------------------------------------------


OPEN = """
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


def test_load_dataset_opens_every_config_where_the_library_is_not_installed(coloured_mnist, tmp_path):
    done = fresh_python("-c", WITHOUT_LIBRARY + OPEN, coloured_mnist, cwd=tmp_path, isolated=True)
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


def test_card_states_configs_counts_and_licence(coloured_mnist):
    card = DatasetCard.load(coloured_mnist / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "cc-by-sa-3.0"
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == "1K<n<10K"  # 4 * 1,200 + 1,000 rows
    assert {"mnist", "debiasing", "hf_biasensemble"} <= set(data["tags"])
    assert [entry["config_name"] for entry in data["configs"]] == ["0.5pct", "1pct", "2pct", "5pct"]
    assert [entry.get("default") for entry in data["configs"]] == [True, None, None, None]
    for entry in data["configs"]:
        assert [file["split"] for file in entry["data_files"]] == ["train", "validation", "test"]
        assert all(len(list(coloured_mnist.glob(file["path"]))) == 1 for file in entry["data_files"])
    assert "| 5pct | train | 1,100 | 1,045 | 55 (5.00%) | 104 + 6 |" in card.text
    test = read_split(coloured_mnist, "shared", "test")
    aligned = int(np.sum(test["label"] == test["bias_label"]))
    assert f"| all | test | 1,000 | {aligned:,} | {TEST - aligned:,} (" in card.text
    assert "](contact_sheet.png)" in card.text
    assert "coloured 3 times" not in card.text


def test_card_states_the_copies(exact_mnist):
    text = (exact_mnist / "README.md").read_text()
    assert "coloured 3 times" in text and "--copies 3" in text and "--color_std 0.0 " in text


def test_contact_sheet_has_aligned_images_on_the_left(coloured_mnist):
    sheet = np.asarray(Image.open(coloured_mnist / "contact_sheet.png")).astype(int)
    left, right = np.array_split(sheet[70:], 2, axis=1)
    for digit in (0, 4, 7):  # bright colours that the dim rims of other digits do not reach
        rows = slice(digit * 60, digit * 60 + 60)
        near = [(np.abs(half[rows] - 255 * cmnist.MEAN_COLORS[digit]).max(axis=2) < 8).sum() for half in (left, right)]
        assert near[0] > 200 and near[1] == 0


# --- to the Hub and back ---------------------------------------------------------------------------------------------

FROM_HUB = """
import datasets, numpy, sys
from hf_biasensemble.cli.main import run_command

data = datasets.load_dataset("me/cmnist", "1pct")
for split, rows in data.items():
    arrays = {name: numpy.asarray(rows[name]) for name in rows.column_names if name != "image"}
    numpy.savez(split, image=numpy.stack([numpy.asarray(image) for image in rows["image"]]), **arrays)
sys.exit(run_command("train", sys.argv[1:]))
"""


@pytest.mark.slow
def test_push_to_hub_and_train_from_there(mnist_folder, hub, client, tmp_path):
    command = [SCRIPT, "--source", "parquet", "--source_dir", mnist_folder, "--dataset_config_names", "1pct"]
    command += ["--overwrite_output_dir", "--output_dir", tmp_path / "out", "--hub_dataset_id"]
    forbidden = client(*command, "you/cmnist")
    hub.fail("POST .*/commit/", status=503)
    failed = client(*command, "me/cmnist")
    for done, repo_id, words in (
        (forbidden, "you/cmnist", "(403)"),
        (failed, "me/cmnist", "the Hub returned an error"),
    ):
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert done.returncode == 2 and len(errors) == 1
        assert f"{tmp_path / 'out'} is complete" in errors[0] and words in errors[0]
        assert errors[0].endswith(f"hf upload {repo_id} {tmp_path / 'out'} --repo-type dataset")
    assert hub.repositories.keys() == {("dataset", "me/cmnist")} and hub.dataset("me/cmnist").files == {}

    assert client(*command, "me/cmnist").returncode == 0
    files = all_bytes(tmp_path / "out")
    assert REPOSITORY_PLACEHOLDER.encode() in files["README.md"]  # its example, until the place is known
    files["README.md"] = files["README.md"].replace(REPOSITORY_PLACEHOLDER.encode(), b"me/cmnist")
    assert hub.dataset("me/cmnist").files == files
    assert len(hub.dataset("me/cmnist").commits) == 2

    data = ["--dataset_name", "me/cmnist", "--dataset_config_name", "1pct", "--max_steps", "2", "--method", "erm"]
    words = ["--output_dir", "run", "--use_cpu", "true", "--disable_tqdm", "true"]
    done = client("-c", FROM_HUB, *data, *words)
    assert done.returncode == 0, done.stderr
    for split in ("train", "validation", "test"):
        loaded = np.load(tmp_path / f"{split}.npz")
        expected = read_split(tmp_path / "out", SHARED if split == "test" else "1pct", split)
        assert loaded.keys() == expected.keys()
        assert all(np.array_equal(loaded[name], expected[name]) for name in expected)
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    local = load_image_splits(DataArguments(dataset_name=str(tmp_path / "out"), dataset_config_name="1pct"), 28)
    assert settings["train_fingerprint"] == local["train"].fingerprint
