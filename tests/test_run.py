"""Whole runs of the commands on a tiny data set: what they leave behind, and what they refuse."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from runs import METHODS, ROOT, SETTINGS, content, error_line, history, results, train, weights, words
from safetensors.torch import load_file
from synthetic import CLASS_NAMES, coloured_digits

from hf_biasensemble.arguments import (
    DataArguments,
    DebiasingArguments,
    ModelArguments,
    SelectionArguments,
    parse_arguments,
)
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.models.build import build_members, build_trainable, classifier_config
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.run import image_transform, make_selection
from hf_biasensemble.selection import Selection

METRICS = ["accuracy", "aligned_accuracy", "conflicting_accuracy", "unbiased_accuracy", "worst_group_accuracy"]


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """Folder of a finished run of each method, made once; not to be changed."""
    folders: dict[str, Path] = {}

    def finished(method: str) -> Path:
        if method not in folders:
            folders[method] = tmp_path_factory.mktemp("finished") / method
            assert train(digits, folders[method], method) == 0
        return folders[method]

    return finished


@pytest.fixture
def copy_of(finished, tmp_path):
    """A copy of a finished run, to be changed at will."""

    def copy_of(method: str) -> Path:
        return shutil.copytree(finished(method), tmp_path / "copy")

    return copy_of


def killed_after_step_5(folder: Path) -> None:
    """Leaves what a run has written until then."""
    for path in folder.iterdir():
        if path.name not in ("config.yaml", "selection", "checkpoint-5"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# What a run leaves behind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_output_folder_is_complete(finished, method):
    files = {str(path.relative_to(finished(method))) for path in finished(method).rglob("*")}
    published = {"config.json", "model.safetensors", "modeling_debiased.py"}
    assert published | {"config.yaml", "history.csv", "all_results.json", "trainer_state.json"} <= files
    assert {"checkpoint-5", "checkpoint-10", "checkpoint-12"} <= files
    assert ("selection/selection.parquet" in files) == method.endswith("_be")
    assert ("checkpoint-12/sample_losses.safetensors" in files) == (method != "erm")
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
    stated = {name: value for name, value in SETTINGS.items() if name not in ("use_cpu", "disable_tqdm")}
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
    prefix = "" if method == "erm" else "debiased."
    assert published.keys() and all(torch.equal(value, trained[prefix + name]) for name, value in published.items())


# Determinism ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_training_never_reads_bias_labels(finished, tmp_path, method):
    other = coloured_digits(tmp_path / "data", shuffled_bias=True)
    assert train(other, tmp_path / "out", method) == 0
    assert weights(tmp_path / "out") == weights(finished(method))
    if method.endswith("_be"):  # the labels did differ, and only what measures saw it
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
            *build_trainable(args, CLASS_NAMES, "lff", seed).named_children(),
            *build_members(args, CLASS_NAMES, 3, seed).members.named_children(),
        )
    }
    assert len(starts) == 10
    assert len({tuple(weight.flatten().tolist()) for weight in starts.values()}) == 10
    alone = build_trainable(args, CLASS_NAMES, "erm", 1).classifier.weight  # the same debiased network in every method
    assert torch.equal(alone, starts[1, "debiased"])


def test_all_methods_differ(finished):
    assert len({weights(finished(method)) for method in METHODS}) == len(METHODS)


# Resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["true", "path"])
def test_resumed_run_ends_bitwise_like_the_uninterrupted_one(finished, copy_of, digits, method, how):
    folder = copy_of(method)
    killed_after_step_5(folder)
    checkpoint = folder / "checkpoint-5"
    written = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert train(digits, folder, method, resume_from_checkpoint=how if how == "true" else checkpoint) == 0
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == written  # the first five steps were not made again
    whole = finished(method)
    assert weights(folder) == weights(whole)
    for file in ("model.safetensors", "sample_losses.safetensors"):
        if method != "erm" or file == "model.safetensors":
            last = Path("checkpoint-12") / file
            assert (folder / last).read_bytes() == (whole / last).read_bytes()
    ours, theirs = (torch.load(f / "checkpoint-12/optimizer.pt", weights_only=True) for f in (folder, whole))
    for number, state in theirs["state"].items():
        assert all(torch.equal(value, ours["state"][number][name]) for name, value in state.items())
    assert history(folder) == history(whole)
    resumed, uninterrupted = results(folder), results(whole)
    assert all(resumed[name] == value for name, value in uninterrupted.items() if name.startswith(("test_", "valid")))


def test_newest_complete_checkpoint_is_resumed(finished, copy_of, digits):
    folder = copy_of("lff")
    killed_after_step_5(folder)
    for number, text in ((10, None), (11, '{"global_st')):  # killed before and while the last file was written
        (folder / f"checkpoint-{number}").mkdir()
        (folder / f"checkpoint-{number}" / "model.safetensors").write_bytes(b"half")
        if text:
            (folder / f"checkpoint-{number}" / "trainer_state.json").write_text(text)
    written = (folder / "checkpoint-5" / "model.safetensors").stat().st_mtime_ns
    assert train(digits, folder, "lff", resume_from_checkpoint="true") == 0
    assert (folder / "checkpoint-5" / "model.safetensors").stat().st_mtime_ns == written
    assert weights(folder) == weights(finished("lff"))


def test_run_that_ended_before_its_first_checkpoint_starts_again_with_its_selection(finished, copy_of, digits):
    folder = copy_of("lff_be")
    killed_after_step_5(folder)
    shutil.rmtree(folder / "checkpoint-5")
    before = (folder / "selection" / "selection.parquet").stat().st_mtime_ns
    assert train(digits, folder, "lff_be", resume_from_checkpoint="true") == 0
    assert (folder / "selection" / "selection.parquet").stat().st_mtime_ns == before
    assert weights(folder) == weights(finished("lff_be"))
    assert "selection_runtime" not in results(folder)


def test_finished_run_can_be_trained_further(finished, copy_of, digits):
    folder = copy_of("lff")
    before = {file: file.stat().st_mtime_ns for file in folder.glob("checkpoint-*/model.safetensors")}
    assert train(digits, folder, "lff", resume_from_checkpoint="true", max_steps=14) == 0
    assert (folder / "checkpoint-14").exists()
    assert before == {file: file.stat().st_mtime_ns for file in before}  # step 12 was not made again
    assert weights(folder) != weights(finished("lff"))


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"method": "erm"}, "method (then: lff_be, now: erm)"),
        ({"seed": 7}, "seed (then: 42, now: 7)"),
        ({"backbone": "resnet18"}, "backbone (then: mlp, now: resnet18)"),
        ({"member_threshold": 0.5}, "member_threshold (then: 0.9, now: 0.5)"),
        ({"learning_rate": 0.1}, "learning_rate (then: 0.003, now: 0.1)"),
    ],
)
def test_resuming_with_other_settings_is_refused_by_name(copy_of, digits, capsys, changes, named):
    folder = copy_of("lff_be")
    before = content(folder)
    assert train(digits, folder, **{"method": "lff_be", "resume_from_checkpoint": "true", **changes}) == 2
    assert named in error_line(capsys)
    assert content(folder) == before


def test_resuming_with_other_data_is_refused_by_name(copy_of, tmp_path, capsys):
    folder = copy_of("lff")
    other = coloured_digits(tmp_path / "other", seed=5)
    before = content(folder)
    assert train(other, folder, "lff", resume_from_checkpoint="true") == 2
    assert "train_fingerprint (then: " in error_line(capsys)
    assert content(folder) == before


def test_resuming_with_the_same_data_elsewhere_works(finished, copy_of, tmp_path):
    folder = copy_of("lff")
    killed_after_step_5(folder)
    assert train(coloured_digits(tmp_path / "moved"), folder, "lff", resume_from_checkpoint="true") == 0
    assert weights(folder) == weights(finished("lff"))


def test_checkpoint_of_another_run_is_checked_too(finished, digits, tmp_path, capsys):
    checkpoint = finished("lff") / "checkpoint-5"
    assert train(digits, tmp_path / "new", "erm", resume_from_checkpoint=checkpoint) == 2
    assert "method (then: lff, now: erm)" in error_line(capsys)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("asked", ["true", "nowhere/checkpoint-5"])
def test_resuming_nothing_is_refused(digits, tmp_path, capsys, asked):
    assert train(digits, tmp_path / "new", resume_from_checkpoint=asked) == 2
    assert f"--resume_from_checkpoint {asked}" in error_line(capsys)
    assert not (tmp_path / "new").exists()


# Selection -----------------------------------------------------------------------------------------------------------


def selection_inputs(data: Path, output_dir: Path, **changes):
    types = [DataArguments, ModelArguments, SelectionArguments, DebiasingArguments]
    data_args, model_args, selection_args, args = parse_arguments(types, words(data, output_dir, "lff_be", **changes))
    return model_args, selection_args, args, load_image_splits(data_args, 28)


def test_selection_made_from_the_same_is_reused(copy_of, digits):
    folder = copy_of("lff_be")
    selection, summary = make_selection(*selection_inputs(digits, folder))
    assert "selection_runtime" not in summary
    assert np.array_equal(selection.is_selected, Selection.load(folder / "selection").is_selected)


@pytest.mark.parametrize("name, value", [("seed", 1), ("member_steps", 29), ("image_scale", 2.0), ("data", None)])
def test_selection_made_from_something_else_is_refused_by_name(copy_of, digits, tmp_path, name, value):
    folder = copy_of("lff_be")
    before = content(folder)
    data = coloured_digits(tmp_path / "other", seed=5) if name == "data" else digits
    inputs = selection_inputs(data, folder, **({} if name == "data" else {name: value}))
    named = "train_fingerprint" if name == "data" else name
    with pytest.raises(BiasEnsembleError, match=rf"made with other settings: {named} \(then: .*remove it"):
        make_selection(*inputs)
    assert content(folder) == before


def test_empty_selection_names_the_settings_to_relax(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "lff_be", member_threshold=0.9999, member_steps=1) == 2
    message = error_line(capsys)
    assert "is empty (0 of 96 samples kept)" in message
    assert "--member_threshold" in message and "--member_agreement" in message and "--member_steps" in message
    assert not (tmp_path / "out" / "selection" / "selection.parquet").exists()
    # Nothing was lost with that folder, so the mended command may use it.
    assert train(digits, tmp_path / "out", "lff_be", max_steps=1) == 0


def test_best_members_and_shared_batches(digits, tmp_path):
    changes = {
        "keep_member": "best",
        "member_eval_steps": 7,
        "share_batches": "true",
        "crop_padding": 1,
        "max_steps": 1,
    }
    assert train(digits, tmp_path / "out", "lff_be", member_threshold=0.3, **changes) == 0
    assert results(tmp_path / "out")["selection_aligned_recall"] > 0.9


def test_best_members_need_a_validation_split(digits, tmp_path, capsys):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"train": data["train"]}).save_to_disk(tmp_path / "data")
    assert train(tmp_path / "data", tmp_path / "out", "lff_be", keep_member="best", validation_share=0) == 2
    assert "--keep_member best: expected a validation split" in error_line(capsys)


# Folders that are in use ---------------------------------------------------------------------------------------------


def test_folder_of_another_run_is_left_alone(copy_of, digits, capsys):
    folder = copy_of("erm")
    before = content(folder)
    assert train(digits, folder, "lff") == 2
    message = error_line(capsys)
    assert f"--output_dir {folder} holds another run" in message
    assert "--resume_from_checkpoint true" in message and "--overwrite_output_dir" in message
    assert content(folder) == before


def test_overwriting_replaces_the_whole_run(copy_of, finished, digits):
    folder = copy_of("lff_be")
    assert train(digits, folder, "erm", overwrite_output_dir="true", save_steps=100, backbone="test_resnet") == 0
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-12"}
    for stale in ("selection", "modeling_debiased.py", "preprocessor_config.json"):
        assert not (folder / stale).exists()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "timm_wrapper"


def test_overwriting_loses_nothing_when_the_new_run_cannot_start(copy_of, digits, tmp_path, capsys):
    folder = copy_of("erm")
    before = content(folder)
    assert train(tmp_path / "nowhere", folder, overwrite_output_dir="true") == 2
    assert "not found" in error_line(capsys)
    assert content(folder) == before


def test_output_folder_that_is_a_file(digits, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert train(digits, tmp_path / "out") == 2
    assert "expected a folder, found a file" in error_line(capsys)
    assert (tmp_path / "out").read_text() == "mine"


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


@pytest.mark.parametrize("method", METHODS)
def test_fewer_samples_than_a_batch(digits, tmp_path, method):
    assert train(digits, tmp_path / "out", method, per_device_train_batch_size=1000, max_steps=2) == 0
    assert results(tmp_path / "out")["train_loss"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_last_batch_of_one(digits, tmp_path, method):
    changes = {"per_device_train_batch_size": 19, "dataloader_drop_last": "false", "max_steps": 7}
    assert train(digits, tmp_path / "out", method, **changes) == 0
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["epoch"] == pytest.approx(1 + 1 / 6)  # five batches of 19 and one of 1 are an epoch
    if method != "erm":
        seen = load_file(tmp_path / "out" / "checkpoint-7" / "sample_losses.safetensors")["seen"]
        assert bool(seen.all())


@pytest.mark.parametrize("method", ["erm", "lff_be"])
def test_data_without_bias_labels(finished, tmp_path, method):
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


def test_data_without_validation_and_test(digits, tmp_path):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"train": data["train"]}).save_to_disk(tmp_path / "data")
    assert train(tmp_path / "data", tmp_path / "out", "lff_be", validation_share=0, test_share=0) == 0
    assert not [name for name in results(tmp_path / "out") if name.startswith(("validation", "test"))]


def test_data_without_a_training_split(digits, tmp_path, capsys):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"test": data["test"]}).save_to_disk(tmp_path / "data")
    assert train(tmp_path / "data", tmp_path / "out") == 2
    assert "expected a training split, found test" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_other_training_data_than_asked_for(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", train_fingerprint="abc") == 2
    assert "--train_fingerprint: expected training data abc" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_unknown_backbone(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", backbone="resnett18") == 2
    assert "--backbone resnett18" in error_line(capsys)


# The test command ----------------------------------------------------------------------------------------------------


def measure(model: Path, data: Path, output_file: Path, *more: str) -> int:
    given = ["--model", str(model), "--dataset_name", str(data), "--output_file", str(output_file), *more]
    return run_command("test", given)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_saved_model_measures_as_it_did_in_training(finished, digits, tmp_path, split):
    file = tmp_path / "new" / "metrics.json"
    assert measure(finished("lff_be"), digits, file, "--split", split, "--batch_size", "7") == 0
    measured = json.loads(file.read_text())
    expected = {name: value for name, value in results(finished("lff_be")).items() if name.startswith(f"{split}_")}
    assert measured == expected and len(measured) == 6


def test_measuring_refuses_what_is_not_there(finished, digits, tmp_path, capsys):
    assert measure(finished("erm"), digits, tmp_path / "m.json", "--split", "exam") == 2
    assert "--split exam: expected one of train, validation, test" in error_line(capsys)
    assert measure(tmp_path / "no model", digits, tmp_path / "m.json") == 2
    assert f"--model {tmp_path / 'no model'}" in error_line(capsys)
    assert not (tmp_path / "m.json").exists()


# The published model in other programs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(finished, digits, tmp_path_factory):
    """Folders of an MLP and a timm model, test images as PNG files, and the logits of the trained networks."""
    folder = tmp_path_factory.mktemp("published")
    settings = {
        "mlp": {"image_mean": "0.1 0.2 0.3", "image_std": "0.5 0.6 0.7", "image_scale": 2.0},
        "timm": {"backbone": "test_resnet", "image_size": 32, "image_mean": "0.4 0.5 0.6", "image_std": "0.2 0.3 0.4"},
    }
    types = [DataArguments, ModelArguments, SelectionArguments, DebiasingArguments]
    (folder / "images").mkdir()
    for number, image in enumerate(datasets.load_dataset(str(digits), split="test")["image"]):
        image.save(folder / "images" / f"{number:02}.png")
    for name, changes in settings.items():
        argv = [word for given in words(digits, folder / name, "lff", **changes) for word in given.split(" ")]
        assert run_command("train", argv) == 0
        data_args, model_args, *_ = parse_arguments(types, argv)
        trained = DebiasedImageClassifier(classifier_config(model_args, CLASS_NAMES))
        checkpoint = load_file(folder / name / "checkpoint-12" / "model.safetensors")
        state = {key.removeprefix("debiased."): value for key, value in checkpoint.items() if key.startswith("deb")}
        trained.load_state_dict(state)
        pixels = load_image_splits(data_args, model_args.image_size)["test"].pixels
        with torch.inference_mode():
            logits = trained.eval()(image_transform(model_args)(pixels, training=False)).logits
        np.save(folder / f"{name}.npy", logits.numpy())
    return folder


COMPARE = """
    import numpy as np, sys, torch
    from pathlib import Path
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = Path(sys.argv[1])
    images = [Image.open(file) for file in sorted((folder / "images").iterdir())]

    def logits(name, **options):
        processor = AutoImageProcessor.from_pretrained(folder / name)
        model = AutoModelForImageClassification.from_pretrained(folder / name, **options)
        with torch.inference_mode():
            batch = processor(images, return_tensors="pt")["pixel_values"]
            return batch, model(batch).logits, model

    def close(name, ours):
        expected = np.load(folder / f"{name}.npy")
        assert ours.shape == expected.shape, ours.shape
        assert expected.std() > 0.01
        assert np.abs(ours.numpy() - expected).max() < 1e-5, np.abs(ours.numpy() - expected).max()
        print("same logits:", name)
"""


def run_python(script: str, *arguments: str, cwd: Path, isolated: bool = False) -> str:
    environment = os.environ | {"HF_HOME": str(cwd / "hf_home"), "CUDA_VISIBLE_DEVICES": ""}
    if not isolated:
        environment["PYTHONPATH"] = str(ROOT)
    flags = ["-I"] if isolated else []
    command = [sys.executable, *flags, "-c", textwrap.dedent(COMPARE) + textwrap.dedent(script), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_model_opens_in_a_new_process_that_has_the_library(published, tmp_path):
    script = """
        import hf_biasensemble.models.export

        _, ours, model = logits("mlp")
        assert type(model).__module__ == "hf_biasensemble.models.modeling_debiased", type(model)
        close("mlp", ours)
    """
    assert "same logits: mlp" in run_python(script, str(published), cwd=tmp_path)


def test_model_opens_where_the_library_is_not_installed(published, tmp_path):
    script = """
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "hf_biasensemble":
                    raise ImportError("blocked: " + name)

        sys.meta_path.insert(0, Blocker())
        try:
            import hf_biasensemble
        except ImportError as error:
            assert "blocked" in str(error)
        else:
            raise AssertionError("the library can be imported")

        _, ours, model = logits("mlp", trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        close("mlp", ours)

        batch, ours, model = logits("timm")
        assert type(model).__name__ == "TimmWrapperForImageClassification"
        assert list(model.config.id2label.values()) == ["bar", "pole", "cross", "square"]
        close("timm", ours)

        import timm

        network = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
        with torch.inference_mode():
            close("timm", network(batch))
    """
    printed = run_python(script, str(published), cwd=tmp_path, isolated=True)
    assert printed.splitlines() == ["same logits: mlp", "same logits: timm", "same logits: timm"]


# The scripts and the shipped recipes ---------------------------------------------------------------------------------


def script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / name), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_help_of_the_training_script(tmp_path):
    done = script("train.py", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--member_threshold" in done.stdout and "--config" in done.stdout


def test_exit_status_and_message_of_a_mistake(tmp_path):
    done = script("train.py", "--dataset_name", "nowhere/at/all", "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "nowhere/at/all not found" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


RECIPES = sorted((ROOT / "configs").glob("*/cmnist.yaml"))


def test_recipes_are_found():
    assert {file.parent.name for file in RECIPES} >= set(METHODS)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.parent.name)
def test_shipped_recipe_runs(file, digits, tmp_path):
    changes = {"max_steps": 2, "member_steps": 2, "member_threshold": 0, "member_agreement": 1}
    given = {"config": file, "dataset_name": digits, "output_dir": tmp_path / "out", "use_cpu": "true", **changes}
    assert run_command("train", [word for name, value in given.items() for word in (f"--{name}", str(value))]) == 0
    assert 0 <= results(tmp_path / "out")["test_unbiased_accuracy"] <= 1
    recipe = yaml.safe_load(file.read_text())
    settings = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    stated = recipe.keys() & settings.keys() - changes.keys()
    assert {name: settings[name] for name in stated} == {name: recipe[name] for name in stated}
