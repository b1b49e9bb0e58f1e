"""The folder of a run: what may be in it, and what a run in it may be resumed with."""

import json

import pytest
from runs import content, error_line, killed_after, train, weights
from synthetic import coloured_digits

from hf_biasensemble.folders.output_folder import without_local_paths

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


def test_output_folder_that_is_a_file_is_refused_and_kept(digits, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert train(digits, tmp_path / "out") == 2
    assert "expected a folder, found a file" in error_line(capsys)
    assert (tmp_path / "out").read_text() == "mine"


# What a run may be resumed with --------------------------------------------------------------------------------------


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
    killed_after(folder, 5)
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


@pytest.mark.parametrize(
    "value, public",
    [
        ("/home/me/digits", "path/to/digits"),
        ("~/digits/", "path/to/digits"),
        ("C:\\Users\\me\\digits", "path/to/digits"),
        ("\\\\server\\share\\digits", "path/to/digits"),
        ("local-dir:/home/me/vit", "local-dir:path/to/vit"),
        ("data/digits", "data/digits"),
        ("me/digits", "me/digits"),
        ("hf-hub:timm/vit", "hf-hub:timm/vit"),
        (["/a/b", 3], ["path/to/b", 3]),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_only_absolute_paths_are_shortened(value, public):
    assert without_local_paths({"name": value}) == {"name": public}
