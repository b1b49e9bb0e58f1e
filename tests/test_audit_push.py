"""The suspected images of an audit as a dataset: on disk, on a Hub on loopback, and opened again."""

import shutil
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from audits import HOSTILE, agreed, audit, listed, made
from fresh_python import only_error
from PIL import Image
from runs import content, error_line, train
from synthetic import CLASS_NAMES, FEATURES, coloured_glyphs, png

from hf_biasensemble.benchmark_datasets.repository import save_card
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.folders.output_folder import AUDIT_IMAGES, REPOSITORY_PLACEHOLDER
from hf_biasensemble.reporting.audit.audit_images import write_suspected_images

COLOURS = FEATURES["bias_label"].names
NAMES = {"README.md", "contact_sheet.png", "train-00000-of-00001.parquet"}


@pytest.fixture(scope="module")
def audited(digits, tmp_path_factory):
    """Folder of an audit with its images; not to be changed."""
    folder = tmp_path_factory.mktemp("audited")
    assert audit(digits, folder, save_images="true") == 0
    return folder


def rows_of(folder: Path) -> list[dict]:
    """The rows of a dataset folder, with the images as they are stored."""
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache"))
    return list(data.cast_column("image", datasets.Image(decode=False)))


def card_of(folder: Path) -> tuple[dict, str]:
    """The YAML block of the card, and its text."""
    _, block, text = (folder / AUDIT_IMAGES / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(block), text


# On disk -------------------------------------------------------------------------------------------------------------


def test_data_set_holds_the_suspected_rows_of_the_list_with_the_files_as_they_are(audited, digits, tmp_path):
    shutil.copytree(audited / AUDIT_IMAGES, tmp_path / "copy")
    original = datasets.Dataset.from_parquet(str(digits / "train.parquet")).cast_column(
        "image", datasets.Image(decode=False)
    )
    expected = [row for row in listed(audited) if row["is_suspected"]]
    found = rows_of(tmp_path / "copy")
    assert 0 < len(found) == len(expected) < 96
    for row, of_list in zip(found, expected, strict=True):
        assert row.pop("image") == {"bytes": original[row["index"]]["image"]["bytes"], "path": None}
        for name, names in (("label", CLASS_NAMES), ("predicted_label", CLASS_NAMES), ("bias_label", COLOURS)):
            row[name] = names[row[name]]
        assert row == of_list


def test_columns_have_the_classes_of_the_data(audited, tmp_path):
    shutil.copytree(audited / AUDIT_IMAGES, tmp_path / "copy")
    data = datasets.load_dataset(str(tmp_path / "copy"), cache_dir=str(tmp_path / "cache"))
    assert list(data) == ["train"]
    features = data["train"].features
    assert features["label"].names == features["predicted_label"].names == CLASS_NAMES
    assert features["bias_label"].names == COLOURS
    assert isinstance(features["image"], datasets.Image)
    assert list(features) == ["image", *listed(audited)[0]]


def test_card_says_what_the_list_is_worth(audited, digits):
    metadata, text = card_of(audited)
    rows = listed(audited)
    suspected = [row for row in rows if row["is_suspected"]]
    share = np.mean([row["is_conflicting"] for row in suspected])
    assert f"# Suspected images of {digits.name}\n" in text
    assert f"{len(suspected)} of 96 training images" in text
    assert f"{share:.1%} of these images are bias-conflicting" in text
    for name in CLASS_NAMES:
        counted = [sum(row["label"] == name for row in some) for some in (suspected, rows)]
        assert f"| {name} | {counted[0]} | {counted[1]} |" in text
    assert "Nothing that can be measured without bias labels" in text and "`num_members 3`" in text
    assert metadata["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}
    ]
    assert metadata["size_categories"] == "n<1K" and "hf_biasensemble" in metadata["tags"]
    with Image.open(audited / AUDIT_IMAGES / "contact_sheet.png") as sheet:
        assert sheet.height > 4 * 56


def written(folder: Path, names: list[str], files: list[str] | None = None, **changes) -> Path | None:
    """The dataset of a selection made up, of the first of 40 images, which are 4 pixels wide."""
    probability = np.r_[np.full(10, 0.1), np.full(30, 0.99)]
    selection = made(probability, labels=np.arange(40) % len(names), **changes)
    selection.save(folder / "selection")
    encoded = [png(np.full((4, 4, 3), 6 * number, dtype=np.uint8)) for number in range(40)]
    records = [{"bytes": image, "path": files and files[row]} for row, image in enumerate(encoded)]
    images = datasets.Dataset.from_dict({"image": records}, features=datasets.Features({"image": datasets.Image()}))
    pixels = np.stack([np.full((3, 4, 4), 6 * number, dtype=np.uint8) for number in range(40)])
    split = ImageSplit(
        torch.from_numpy(pixels),
        torch.from_numpy(selection.labels),
        names,
        torch.arange(40),
        images=images.cast_column("image", datasets.Image(decode=False)),
    )
    return write_suspected_images(folder, split, "some/data", "1pct")


def test_card_warns_where_the_page_does_and_shows_names_as_text(tmp_path):
    names = [HOSTILE, "a | b"]
    predicted = np.arange(40) % 2
    folder = written(tmp_path, names, **agreed(predicted, np.where(np.arange(40) < 20, 2, 3)))
    _, text = card_of(tmp_path)
    assert "**Do not rely on this list.** The members disagree" in text and "speaks against" not in text
    assert "Suspected images of some/data, 1pct" in text and "bias labels of the data" not in text
    assert "| &lt;script&gt;alert(1)&lt;/script&gt; | 5 | 20 |" in text and "| a \\| b | 5 | 20 |" in text
    assert HOSTILE not in text
    assert folder is not None and {row["label"] for row in rows_of(folder)} == {0, 1}


@pytest.mark.parametrize("count, size", [(999, "n<1K"), (1_000, "1K<n<10K"), (25_000, "10K<n<100K")])
def test_size_on_the_card(tmp_path, count, size):
    save_card(tmp_path, "title", "text", count, [])
    assert f"size_categories: {size}\n" in (tmp_path / "README.md").read_text()


def test_no_suspected_image_no_data_set(tmp_path):
    selected = {"is_selected": np.ones(40, dtype=bool)}
    assert written(tmp_path, ["a", "b"], **selected) is None
    assert not (tmp_path / AUDIT_IMAGES).exists()


def test_names_of_files_are_shown_without_the_folders_of_a_machine(tmp_path):
    files = [
        ("/home/me/secret/{}.png", "C:\\Users\\me\\secret\\{}.png", "day/{}.png", "{}.png")[row % 4].format(row)
        for row in range(40)
    ]
    folder = written(tmp_path, ["a", "b"], files)
    assert folder is not None
    assert [row["file"] for row in rows_of(folder)] == [
        f"day/{row}.png" if row % 4 == 2 else f"{row}.png" for row in range(10)
    ]
    assert not [name for name, data in content(folder).items() if b"secret" in data]


def test_names_of_files_count_from_the_folder_of_the_data_set_or_its_table(tmp_path):
    columns = coloured_glyphs(40, 0.1, seed=3)
    data = tmp_path / "secret" / "photographs"
    for number, (image, label) in enumerate(zip(columns["image"], columns["label"], strict=True)):
        file = data / CLASS_NAMES[label] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image["bytes"])
    lines = [
        f"{label}/{number:02d}.png,{label}"
        for number, label in enumerate(map(CLASS_NAMES.__getitem__, columns["label"]))
    ]
    (data / "table.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    for name, source in (("table", data / "table.csv"), ("folder", data)):
        if source == data:
            (data / "table.csv").unlink()
        out = tmp_path / name
        assert audit(source, out, member_steps=2, save_images="true") == 0
        rows = rows_of(out / AUDIT_IMAGES)
        assert len(rows) > 10
        for row in rows:
            assert row["image"]["bytes"] == (data / row["file"]).read_bytes()
        files = {"audit.csv": (out / "audit.csv").read_bytes(), **content(out / AUDIT_IMAGES)}
        assert [name for name, data_of in files.items() if b"secret" in data_of] == []


def test_images_of_an_earlier_list_do_not_stay(audited, digits, tmp_path):
    shutil.copytree(audited, tmp_path / "out")
    images = tmp_path / "out" / AUDIT_IMAGES
    assert audit(digits, tmp_path / "out") == 0
    assert not images.exists()
    assert audit(digits, tmp_path / "out", save_images="true") == 0
    assert content(images) == content(audited / AUDIT_IMAGES)
    assert train(digits, tmp_path / "out", "erm", overwrite_output_dir="true") == 0
    assert not images.exists()


# On the Hub ----------------------------------------------------------------------------------------------------------


def test_push_in_one_commit_and_load_again(audited, hub, client, push, tmp_path):
    done = push(audited, "me/suspected", "--audit", "--private")
    assert done.returncode == 0 and "pushed: " in done.stdout
    repository = hub.dataset("me/suspected")
    assert repository.private and repository.files.keys() == NAMES
    assert [commit.title for commit in repository.commits] == ["initial commit", "Upload suspected images"]
    card = repository.files["README.md"].decode()
    assert 'load_dataset("me/suspected", split="train")' in card and REPOSITORY_PLACEHOLDER not in card

    code = """
        import sys, datasets

        data = datasets.load_dataset("me/suspected", split="train")
        data.cast_column("image", datasets.Image(decode=False)).save_to_disk(sys.argv[1])
    """
    assert client("-c", textwrap.dedent(code), tmp_path / "loaded").returncode == 0
    shutil.copytree(audited / AUDIT_IMAGES, tmp_path / "copy")
    assert list(datasets.load_from_disk(str(tmp_path / "loaded"))) == rows_of(tmp_path / "copy")


def test_files_of_an_earlier_push_do_not_stay_and_others_do(audited, hub, push, tmp_path):
    shutil.copytree(audited, tmp_path / "out")
    (tmp_path / "out" / AUDIT_IMAGES / "notes.txt").write_text("mine")
    assert push(tmp_path / "out", "suspected", "--audit", "--commit_message", "Seed 0").returncode == 0
    repository = hub.dataset("me/suspected")
    assert repository.files.keys() == NAMES and repository.commits[-1].title == "Seed 0"
    stale = {"train-00001-of-00002.parquet": b"old", "LICENSE": b"MIT"}
    repository.commit("by hand", repository.files | stale)
    assert push(tmp_path / "out", "me/suspected", "--audit").returncode == 0
    assert repository.files.keys() == NAMES | {"LICENSE"}


def test_push_that_fails_names_the_command_that_repeats_it(audited, hub, push):
    hub.fail("POST .*/commit/", times=50, status=403)
    error = only_error(push(audited, "me/suspected", "--audit"))
    assert error.endswith(
        f"(403); name a repository of yours, or log in with a token that may write; then: "
        f"hf-biasensemble push {audited} me/suspected --audit"
    )
    assert hub.dataset("me/suspected").files == {}


def test_folders_without_images_and_wrong_options_are_refused(audited, digits, tmp_path, capsys):
    assert run_command("push", [str(tmp_path), "me/suspected", "--audit"]) == 2
    assert f"found no {AUDIT_IMAGES}/README.md in {tmp_path}; run the audit again with --save_images" in error_line(
        capsys
    )
    assert run_command("push", [str(audited), "me/model"]) == 2
    assert error_line(capsys).endswith("; the images of an audit are pushed with --audit")
    assert run_command("push", [str(audited), "me/model", "--audit", "--with_selection"]) == 2
    assert "not allowed with argument" in error_line(capsys)
    assert audit(digits, tmp_path / "out", push_to_hub="true") == 2
    assert f"hf-biasensemble push {tmp_path / 'out'} REPO --audit" in error_line(capsys)
    assert not (tmp_path / "out").exists()
