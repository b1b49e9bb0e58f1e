"""Whole runs of the commands on a tiny dataset: what they leave behind, what decides it, and which data will do."""

import json
import re

import datasets
import pytest
import torch
import yaml
from fresh_python import fresh_python, only_error
from runs import METHODS, ROOT, SETTINGS, error_line, history, results, slow_but, train, weights
from safetensors.torch import load_file
from synthetic import CLASS_NAMES, coloured_digits

from hf_biasensemble.arguments import (
    ModelArguments,
)
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.models.build import build_members
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.relative_difficulty import RelativeDifficultyTrainer

METRICS = ["accuracy", "aligned_accuracy", "conflicting_accuracy", "unbiased_accuracy", "worst_group_accuracy"]

# What a run leaves behind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_output_folder_is_complete(finished, method):
    files = {str(path.relative_to(finished(method))) for path in finished(method).rglob("*")}
    published = {"config.json", "model.safetensors", "modeling_debiased.py"}
    assert published | {"config.yaml", "history.csv", "all_results.json", "trainer_state.json"} <= files
    assert {"checkpoint-5", "checkpoint-10", "checkpoint-12"} <= files
    assert ("selection/selection.parquet" in files) == (ALL_METHODS[method].selector is not None)
    remembers = {"lff", "lff_be", "disent", "disent_be", "group_dro_be"}
    assert ("checkpoint-12/sample_losses.safetensors" in files) == (method in remembers)
    assert not [file for file in files if file.endswith(".unfinished")]


@pytest.mark.parametrize("method", METHODS)
def test_history_has_one_row_per_evaluation(finished, method):
    rows = history(finished(method))
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert set(rows[0]) >= {f"{split}_{metric}" for split in ("validation", "test") for metric in METRICS}
    final = results(finished(method))
    for name, value in rows[-1].items():
        if name != "step" and value:
            assert float(value) == final[name]
    assert len({row["test_accuracy"] for row in rows}) > 1 or method == "erm"


def test_results_hold_metrics_of_both_splits_and_the_selection(finished):
    kept = results(finished("lff_be"))
    assert {f"{split}_{metric}" for split in ("validation", "test") for metric in METRICS} <= kept.keys()
    assert {"train_runtime", "train_steps_per_second", "selection_runtime"} <= kept.keys()
    # The glyphs are hard and the colours easy: the members keep the aligned images and no other.
    assert kept["selection_aligned_recall"] > 0.9 and kept["selection_conflicting_leak"] < 0.2
    selection = Selection.load(finished("lff_be") / "selection")
    assert kept["selection_size"] == selection.is_selected.sum() < 96
    assert "selection_size" not in results(finished("lff"))


def test_resolved_settings_are_written(finished, digits):
    settings = yaml.safe_load((finished("lff_be") / "config.yaml").read_text())
    known = ALL_METHODS["lff_be"].option_names() - {"use_cpu", "disable_tqdm"}
    stated = {name: value for name, value in SETTINGS.items() if name in known}
    assert {name: settings[name] for name in stated} == stated
    assert settings["dataset_name"] == str(digits) and settings["method"] == "lff_be" and settings["seed"] == 42
    assert len(settings["train_fingerprint"]) == 32


def test_published_config_names_the_classes(finished):
    config = json.loads((finished("lff") / "config.json").read_text())
    assert config["id2label"] == {str(number): name for number, name in enumerate(CLASS_NAMES)}
    assert config["label2id"] == {name: number for number, name in enumerate(CLASS_NAMES)}


@pytest.mark.parametrize("method", METHODS)
def test_published_weights_are_those_of_the_last_checkpoint(finished, method):
    published = load_file(finished(method) / "model.safetensors")
    trained = load_file(finished(method) / "checkpoint-12" / "model.safetensors")
    prefix = "debiased." if any(name.startswith("debiased.") for name in trained) else ""
    assert published.keys() and all(torch.equal(value, trained[prefix + name]) for name, value in published.items())


# Determinism ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_training_never_reads_bias_labels(finished, tmp_path, method):
    other = coloured_digits(tmp_path / "data", shuffled_bias=True)
    assert train(other, tmp_path / "out", method) == 0
    assert weights(tmp_path / "out") == weights(finished(method))
    if ALL_METHODS[method].selector:  # the labels did differ, and only what measures saw it
        assert results(tmp_path / "out")["selection_size"] == results(finished(method))["selection_size"]
        leak = "selection_conflicting_leak"
        assert results(tmp_path / "out")[leak] != results(finished(method))[leak]


def test_config_file_of_a_run_gives_the_same_run(finished, tmp_path):
    settings = ["--config", str(finished("lff_be") / "config.yaml"), "--disable_tqdm", "true"]
    assert run_command("train", [*settings, "--output_dir", str(tmp_path / "out")]) == 0
    assert weights(tmp_path / "out") == weights(finished("lff_be"))
    ours, theirs = (yaml.safe_load((f / "config.yaml").read_text()) for f in (tmp_path / "out", finished("lff_be")))
    assert ours | {"output_dir": None} == theirs | {"output_dir": None}


@pytest.mark.parametrize("method", ["erm", "lff_be"])
def test_another_seed_gives_another_model(finished, digits, tmp_path, method):
    assert train(digits, tmp_path / "out", method, seed=43) == 0
    assert weights(tmp_path / "out") != weights(finished(method))


def test_networks_start_from_the_seed_and_each_from_its_own():
    args = ModelArguments()
    starts = {
        (seed, name): network.classifier.weight
        for seed in (1, 2)
        for name, network in (
            *ALL_METHODS["lff"].network(args, CLASS_NAMES, seed).named_children(),
            *build_members(args, CLASS_NAMES, 3, seed).members.named_children(),
        )
    }
    assert len(starts) == 10
    assert len({tuple(weight.flatten().tolist()) for weight in starts.values()}) == 10
    alone = (
        ALL_METHODS["erm"].network(args, CLASS_NAMES, 1).classifier.weight
    )  # the same debiased network in every method
    assert torch.equal(alone, starts[1, "debiased"])


def test_all_methods_differ(finished):
    assert len({weights(finished(method)) for method in METHODS}) == len(METHODS)


# Numbers that go wrong, sizes that do not fit ------------------------------------------------------------------------


def test_loss_that_is_not_finite_ends_the_run_and_keeps_earlier_checkpoints(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", learning_rate=1e30, save_steps=1) == 2
    message = error_line(capsys)
    assert "at step 2 (learning rate 1e+30)" in message
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-1"]
    kept = load_file(tmp_path / "out" / "checkpoint-1" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("method", METHODS)
def test_loss_that_is_not_finite_is_seen_without_checkpoints_or_logs(digits, tmp_path, capsys, method):
    changes = {"learning_rate": 1e30, "save_strategy": "no", "logging_steps": 100}
    assert train(digits, tmp_path / "out", method, **changes) == 2
    assert "at step 2 (learning rate 1e+30)" in error_line(capsys)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "changes, epochs",
    [
        ({"per_device_train_batch_size": 1000, "max_steps": 2}, 2),  # fewer images than a batch: an epoch is one step
        (
            {"per_device_train_batch_size": 19, "dataloader_drop_last": "false", "max_steps": 7},
            1 + 1 / 6,  # five batches of 19 and one of 1 are an epoch
        ),
    ],
    ids=["fewer than a batch", "last batch of one"],
)
@pytest.mark.parametrize("method", slow_but(METHODS, "lff_be"))
def test_every_image_is_trained_on_whatever_the_size_of_a_batch(digits, tmp_path, method, changes, epochs):
    assert train(digits, tmp_path / "out", method, **changes) == 0
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["epoch"] == pytest.approx(epochs)
    assert results(tmp_path / "out")["train_loss"] > 0
    table = tmp_path / "out" / f"checkpoint-{changes['max_steps']}" / "sample_losses.safetensors"
    seen = load_file(table).get("seen") if table.exists() else None
    assert (seen is not None) == issubclass(ALL_METHODS[method].trainer, RelativeDifficultyTrainer)
    assert seen is None or bool(seen.all())


@pytest.mark.parametrize("method", ["erm", "lff_be"])
def test_data_without_bias_labels_give_the_same_model_and_no_bias_metrics(finished, tmp_path, method):
    data = coloured_digits(tmp_path / "data", leave_out=["bias_label", "is_conflicting"])
    assert train(data, tmp_path / "out", method) == 0
    assert weights(tmp_path / "out") == weights(finished(method))
    kept = results(tmp_path / "out")
    assert {"validation_accuracy", "test_accuracy"} <= kept.keys()
    measured = [name for name in kept if name.startswith(("validation_", "test_", "selection_"))]
    assert not [name for name in measured if re.search("aligned|conflict|biased|group", name)]
    header = (tmp_path / "out" / "history.csv").read_text().splitlines()[0]
    difficulty = ",train_relative_difficulty,train_biased_loss,train_debiased_loss" if method == "lff_be" else ""
    assert header == "step,validation_accuracy,test_accuracy" + difficulty


def test_data_without_validation_and_test_train_and_have_no_metrics(digits, tmp_path):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"train": data["train"]}).save_to_disk(tmp_path / "data")
    assert train(tmp_path / "data", tmp_path / "out", "lff_be", validation_share=0, test_share=0) == 0
    assert not [name for name in results(tmp_path / "out") if name.startswith(("validation", "test"))]


def test_data_without_a_training_split_are_refused(digits, tmp_path, capsys):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"test": data["test"]}).save_to_disk(tmp_path / "data")
    assert train(tmp_path / "data", tmp_path / "out") == 2
    assert "expected a training split, found test" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_other_training_data_than_asked_for_are_refused(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", train_fingerprint="abc") == 2
    assert "--train_fingerprint: expected training data abc" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_unknown_backbone_is_refused(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", backbone="resnett18") == 2
    assert "--backbone resnett18" in error_line(capsys)
    assert not (tmp_path / "out").exists()


# The scripts and the shipped recipes ---------------------------------------------------------------------------------


def test_help_of_the_training_script_names_its_options(tmp_path):
    done = fresh_python(ROOT / "train.py", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--member_threshold" in done.stdout and "--config" in done.stdout


@pytest.mark.slow
def test_mistake_is_one_line_and_exit_status_2(tmp_path):
    done = fresh_python(ROOT / "train.py", "--dataset_name", "nowhere/at/all", "--output_dir", "out", cwd=tmp_path)
    assert "nowhere/at/all not found" in only_error(done)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


RECIPES = sorted((ROOT / "configs").glob("*/cmnist.yaml"))


def test_recipes_are_found():
    assert {file.parent.name for file in RECIPES} >= set(METHODS)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.parent.name)
def test_shipped_recipe_runs(file, digits, tmp_path):
    method = ALL_METHODS[yaml.safe_load(file.read_text())["method"]]
    changes = {"max_steps": 2, "member_steps": 2, "member_eval_steps": 1, "member_threshold": 0, "member_agreement": 1}
    changes["first_stage_steps"] = 2
    changes = {name: value for name, value in changes.items() if name in method.option_names()}
    if method.starts_from:
        assert train(digits, tmp_path / "start", method.starts_from, max_steps=2) == 0
        changes["init_from"] = tmp_path / "start"
    given = {"config": file, "dataset_name": digits, "output_dir": tmp_path / "out", "use_cpu": "true", **changes}
    assert run_command("train", [word for name, value in given.items() for word in (f"--{name}", str(value))]) == 0
    assert 0 <= results(tmp_path / "out")["test_unbiased_accuracy"] <= 1
    recipe = yaml.safe_load(file.read_text())
    settings = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    stated = recipe.keys() & settings.keys() - changes.keys()
    assert {name: settings[name] for name in stated} == {name: recipe[name] for name in stated}
