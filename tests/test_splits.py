"""Which splits, which revision and how many images of a dataset are used."""

import io
import json
import textwrap
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from datasets import ClassLabel, Value
from hub_server import Repository
from loaded import load_splits
from runs import error_line, results, train
from synthetic import CLASS_NAMES, class_folders, coloured_digits
from test_loading import data_set

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.internal.errors import BiasEnsembleError


def saved(folder: Path, digits: Path, **names: str) -> str:
    """The tiny dataset, with other names of its splits: `new="train"`."""
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({new: data[old] for new, old in names.items()}).save_to_disk(folder)
    return str(folder)


def sizes(name: str, **names: str) -> dict[str, int]:
    options = {f"{use}_split": split for use, split in names.items()}
    return {use: len(split.labels) for use, split in load_splits(name, **options).items()}


def loaded(name: Path | str, **changes: object) -> dict:
    return load_image_splits(DataArguments(dataset_name=str(name), **changes), 8)


# Names ---------------------------------------------------------------------------------------------------------------


def test_splits_of_other_names(digits, tmp_path):
    name = saved(tmp_path, digits, labelled="train", train="validation", held_out="test")
    assert sizes(name, train="labelled", test="held_out") == {"train": 96, "test": 64}
    assert sizes(name, train="labelled", validation="train", test="held_out") == {
        "train": 96,
        "validation": 32,
        "test": 64,
    }


def test_a_split_that_was_named_serves_for_nothing_else(digits, tmp_path):
    """As ImageNet is used, whose test images have no labels."""
    name = saved(tmp_path, digits, train="train", validation="validation")
    assert sizes(name, test="validation") == {"train": 96, "test": 32}
    splits = loaded(name, test_split="validation")
    assert {use: len(split) for use, split in splits.items()} == {"train": 86, "validation": 10, "test": 32}


def test_of_several_forms_the_usual_name_comes_first_and_another_can_be_named(digits, tmp_path):
    name = saved(tmp_path, digits, train="train", val="test", validation="validation")
    assert sizes(name) == {"train": 96, "validation": 32}
    assert sizes(name, validation="val") == {"train": 96, "validation": 64}


@pytest.mark.parametrize("use", ["train", "validation", "test"])
def test_a_named_split_that_is_not_there_is_refused_with_those_there_are(digits, use):
    with pytest.raises(BiasEnsembleError) as caught:
        loaded(digits, **{f"{use}_split": "extra"})
    assert f"expected the split 'extra' given by --{use}_split, found train, validation, test;" in str(caught.value)


def test_one_split_for_two_uses_is_refused(digits, tmp_path):
    name = saved(tmp_path, digits, all="train")
    with pytest.raises(BiasEnsembleError, match="different splits for --train_split, --test_split, found all, all"):
        loaded(name, train_split="all", test_split="all")


def test_splits_without_usual_names_say_what_to_do(digits, tmp_path):
    name = saved(tmp_path, digits, first="train")
    with pytest.raises(BiasEnsembleError, match="found first; name them with --train_split"):
        loaded(name)


def test_folders_may_be_called_so_too(tmp_path):
    for folder in ("training", "testing"):
        class_folders(tmp_path / folder)
    splits = load_splits(str(tmp_path), train_split="training", test_split="testing")
    assert list(splits) == ["train", "test"] and splits["test"].class_names == ["ant", "owl"]


# Test images without labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, missing", [(ClassLabel(names=["a", "b"]), -1), (Value("int64"), -1)])
def test_a_test_split_without_labels_is_left_out_and_said(tmp_path, capsys, kind, missing):
    name = data_set(tmp_path, {"train": {"label": [0, 1] * 10}, "test": {"label": [missing] * 3}}, label=kind)
    assert list(load_splits(name)) == ["train"]
    assert "  the test split is left out, since it has no labels (3 images)" in capsys.readouterr().out.splitlines()


def test_nulls_are_no_labels_either(tmp_path):
    content = {"train": {"label": ["a", "b"]}, "test": {"label": [None, None]}}
    assert list(load_splits(data_set(tmp_path, content, label=Value("string")))) == ["train"]


def test_training_goes_on_without_its_labels(tmp_path, capsys):
    data = coloured_digits(tmp_path / "data")
    test = datasets.load_dataset(str(data), split="test")
    test = test.map(lambda row: {"label": -1}, features=test.features)
    test.to_parquet(data / "test.parquet")
    assert train(data, tmp_path / "out", max_steps=4, test_share=0) == 0, capsys.readouterr().err
    assert "validation_accuracy" in results(tmp_path / "out") and "test_accuracy" not in results(tmp_path / "out")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_some_missing_labels_still_are_a_mistake(tmp_path, split):
    content = {use: {"label": [0, 1, -1 if use == split else 0]} for use in ("train", "validation", "test")}
    name = data_set(tmp_path, content, label=ClassLabel(names=["a", "b"]))
    with pytest.raises(BiasEnsembleError, match=f"split {split}: column 'label', row 2: .* found -1"):
        load_splits(name)


# Revision ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_revision_of_a_data_set_on_the_hub(digits, hub, client):
    """The last commit has half of the images."""
    repository = hub.repositories["dataset", "me/digits"] = Repository("me/digits")
    whole = {"train.parquet": (digits / "train.parquet").read_bytes()}
    first = repository.commit("all", whole)
    half = io.BytesIO()
    datasets.load_dataset(str(digits), split="train").select(range(48)).to_parquet(half)
    repository.commit("half", {"train.parquet": half.getvalue()})
    code = textwrap.dedent("""
        import sys
        from hf_biasensemble.arguments import DataArguments
        from hf_biasensemble.data.loading import load_splits

        for revision in (None, sys.argv[1], "no-such"):
            data_args = DataArguments(dataset_name="me/digits", dataset_revision=revision)
            try:
                print(len(load_splits(data_args)["train"].labels))
            except ValueError as error:
                print(error)
    """)
    done = client("-c", code, first.sha)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line for line in said if line.isdigit()] == ["48", "96"]  # among how the dataset is read
    assert "(revision no-such) could not be opened" in said[-1]


def test_revision_of_a_local_folder_is_refused(digits):
    with pytest.raises(BiasEnsembleError, match="--dataset_revision v1: expected a dataset on the Hub, found the"):
        loaded(digits, dataset_revision="v1")


# At most so many images ----------------------------------------------------------------------------------------------


def test_at_most_so_many_images_keep_their_index(digits):
    whole, splits = loaded(digits), loaded(digits, max_train_samples=40, max_eval_samples=10)
    assert {use: len(split) for use, split in splits.items()} == {"train": 40, "validation": 10, "test": 10}
    for use, split in splits.items():
        batch = split.__getitems__(range(len(split)))
        assert torch.equal(batch["index"], split.rows) and torch.equal(split.rows, split.rows.sort().values)
        assert torch.equal(batch["pixel_values"], whole[use].pixels[split.rows])
        assert torch.equal(batch["labels"], whole[use].labels[split.rows])
        assert len(split.measured_by()["is_conflicting"]) == len(split)
    assert splits["train"].fingerprint != whole["train"].fingerprint


def test_split_seed_draws_them_and_fewer_are_some_of_more(digits):
    def rows(**changes: int) -> list[int]:
        return loaded(digits, **changes)["train"].rows.tolist()

    fifty = rows(max_train_samples=50)
    assert fifty == rows(max_train_samples=50) != rows(max_train_samples=50, split_seed=1)
    assert set(rows(max_train_samples=30)) < set(fifty)
    assert fifty != list(range(50))
    assert rows(max_train_samples=1000) == list(range(96))


def test_they_are_drawn_after_missing_splits_were_cut_out(digits, tmp_path):
    name = saved(tmp_path, digits, train="train")
    whole, splits = loaded(name), loaded(name, max_train_samples=40, max_eval_samples=5)
    assert {use: len(split) for use, split in splits.items()} == {"train": 40, "validation": 5, "test": 5}
    for use, split in splits.items():
        assert set(split.rows.tolist()) < set(whole[use].rows.tolist())


def test_a_class_without_training_images_is_refused(digits):
    with pytest.raises(BiasEnsembleError) as caught:
        loaded(digits, max_train_samples=3)
    assert "--max_train_samples 3: expected images of every class, found none of " in str(caught.value)
    assert any(name in str(caught.value) for name in CLASS_NAMES)


@pytest.mark.parametrize("option", ["max_train_samples", "max_eval_samples"])
def test_none_at_all_are_refused(digits, option):
    with pytest.raises(BiasEnsembleError, match=f"--{option}: expected at least 1, found 0"):
        loaded(digits, **{option: 0})


def test_a_run_with_few_images(digits, tmp_path, capsys):
    few = {"max_train_samples": 40, "max_eval_samples": 12, "member_threshold": 0.2}
    assert train(digits, tmp_path / "out", "lff_be", **few) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "train: 40 of 96 images are used (--max_train_samples)" in said
    assert "test: 12 of 64 images are used (--max_eval_samples)" in said
    settings = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert settings["max_train_samples"] == 40 and settings["max_eval_samples"] == 12
    right = results(tmp_path / "out")["test_accuracy"] * 12
    assert right == pytest.approx(round(right))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| train | 40 |" in card and "| test | 12 |" in card
    assert train(
        digits, tmp_path / "out", "lff_be", **few | {"max_train_samples": 50, "resume_from_checkpoint": "true"}
    )
    assert "max_train_samples (then: 40, now: 50)" in error_line(capsys)


def test_check_data_and_test_count_the_same(digits, tmp_path, capsys, published):
    words = ["--dataset_name", str(digits), "--max_eval_samples", "10", "--test_split", "validation"]
    assert run_command("check_data", words) == 0
    said = capsys.readouterr().out
    assert "test: 10 images" in said and "validation: 10 images" in said
    file = tmp_path / "metrics.json"
    assert run_command("test", [*words, "--model", str(published / "mlp"), "--output_file", str(file)]) == 0
    right = json.loads(file.read_text())["test_accuracy"] * 10
    assert right == pytest.approx(round(right))
