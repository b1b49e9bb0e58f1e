"""Votes of members on features of a frozen backbone belong to these features, and are reused for no others."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from runs import error_line, results, selection_inputs, train
from safetensors.torch import save_file

from hf_biasensemble.judging.judge import pseudo_groups_of
from hf_biasensemble.judging.members import Members
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection

BACKBONE = "test_resnet"


def weights_file(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_file(timm.create_model(BACKBONE, num_classes=0).state_dict(), folder / f"{seed}.safetensors")
    return folder / f"{seed}.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return [weights_file(folder, seed) for seed in (0, 1)]


@pytest.fixture
def frozen(files, tmp_path):
    network = {"backbone": BACKBONE, "pretrained_weights": files[0], "image_size": 32, "freeze_backbone": "true"}
    views = {"feature_views": 1, "augmentation": "photographs", "member_threshold": 0.3, "max_steps": 4}
    return {**network, **views, "selection_dir": tmp_path / "shared"}


OTHERS = {
    "weights": "weights",
    "augmentation": "augmentation",
    "color_jitter": "color_jitter",
    "feature_views": "feature_views",
    "split_seed": "seed",
    "image_mean": "preprocessing",
    "backbone_args": "architecture",
}


@pytest.mark.parametrize("what", OTHERS)
def test_votes_of_other_features_are_refused_by_name(digits, files, frozen, tmp_path, what, capsys):
    make_selection(*selection_inputs(digits, tmp_path / "one", "group_dro_be", **frozen), must_serve=False)
    other = {
        "weights": {"pretrained_weights": files[1]},
        "augmentation": {"augmentation": "none", "horizontal_flip": "true"},
        "color_jitter": {"color_jitter": 0.4},
        "feature_views": {"feature_views": 2},
        "split_seed": {"split_seed": 1},
        "image_mean": {"image_mean": [0.4, 0.4, 0.4]},
        "backbone_args": {"backbone_args": '{"act_layer": "gelu"}'},
    }[what]
    assert train(digits, tmp_path / "two", "group_dro_be", **{**frozen, **other}) == 2
    message = error_line(capsys)
    assert "was made with other settings" in message and OTHERS[what] in message


def test_votes_of_the_same_features_are_reused(digits, frozen, tmp_path):
    for name in ("one", "two"):
        assert train(digits, tmp_path / name, "group_dro_be", **frozen) == 0
    assert "selection_runtime" in results(tmp_path / "one") and "selection_runtime" not in results(tmp_path / "two")
    stated = Selection.load(tmp_path / "two" / "selection").provenance
    assert stated["features_libraries"].startswith("timm ") and stated["features_augmentation"] == "photographs"


def test_features_of_a_run_serve_the_members_of_the_same_backbone_and_no_others(digits, files, frozen, tmp_path):
    """However their features were standardised."""
    folder = tmp_path / "one"
    own = selection_inputs(digits, folder, "group_dro_be", **frozen)
    make_selection(*own, must_serve=False)
    members = Members.load(folder)
    blind = {"validation": replace(own[1].images["validation"], pixels=torch.zeros(0))}
    found = pseudo_groups_of(members, replace(own[1], images=blind), "validation", 8)
    assert found.predicted.shape == (32,)
    shifted = replace(members, transform=replace(members.transform, mean=members.transform.mean + 1))
    assert pseudo_groups_of(shifted, replace(own[1], images=blind), "validation", 8).digest != found.digest

    changes = {"pretrained_weights": files[1], "selection_dir": tmp_path / "other"}
    other = selection_inputs(digits, tmp_path / "two", "group_dro_be", **{**frozen, **changes})[1]
    assert torch.equal(other.images["validation"].pixels, own[1].images["validation"].pixels)
    from_images = pseudo_groups_of(members, replace(other, encoded=own[1].encoded), "validation", 8)
    assert (from_images.predicted == found.predicted).all()
    with pytest.raises(IndexError):  # what is not the same is not taken, but encoded from images
        pseudo_groups_of(members, replace(other, images=blind), "validation", 8)
