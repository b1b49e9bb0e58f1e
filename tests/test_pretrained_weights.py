"""Backbones that start from a local file of weights, and what is said of files that do not fit."""

from pathlib import Path

import pytest
import timm
import torch
from runs import error_line, train, weights
from safetensors.torch import load_file, save_file

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.build import build_members
from hf_biasensemble.models.preprocessing import with_preprocessing

BACKBONE = "test_resnet"
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def source():
    """A backbone with a classifier of other classes, as one downloads it."""
    torch.manual_seed(5)
    return timm.create_model(BACKBONE, num_classes=7)


def saved(source, folder: Path, kind: str) -> Path:
    state = source.state_dict()
    file = folder / ("weights.safetensors" if "safetensors" in kind else "weights.pth")
    if kind == "safetensors":
        save_file(state, file)
    elif kind == "safetensors of transformers":
        save_file({f"timm_model.{name}": tensor for name, tensor in state.items()}, file)
    elif kind == "state dict":
        torch.save(state, file)
    elif kind == "training checkpoint":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    else:
        torch.save({name: tensor for name, tensor in state.items() if not name.startswith("fc.")}, file)
    return file


def starting_from(file: Path) -> ModelArguments:
    return with_preprocessing(ModelArguments(backbone=BACKBONE, pretrained_weights=str(file)))


@pytest.mark.parametrize(
    "kind",
    ["safetensors", "safetensors of transformers", "state dict", "training checkpoint", "without classifier"],
)
@pytest.mark.parametrize("method", ["erm", "lff_be", "disent_be"])
def test_every_encoder_starts_from_the_file(source, tmp_path, kind, method):
    arguments = starting_from(saved(source, tmp_path, kind))
    model = METHODS[method].network(arguments, NAMES, 0)
    classifiers = [model] if method == "erm" else [model.debiased, *([model.biased] if method == "lff_be" else [])]
    encoders = [encoder for classifier in classifiers for encoder in classifier.encoders()]
    assert len(encoders) == (1 if method == "erm" else 2)
    expected = source.state_dict()
    for encoder in encoders:
        assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())


def test_members_start_from_the_file_with_classifiers_of_their_own(source, tmp_path):
    arguments = starting_from(saved(source, tmp_path, "state dict"))
    first, second = build_members(arguments, NAMES, 2, seed=0).members
    for one, other in zip(first.encoders(), second.encoders(), strict=True):
        assert torch.equal(one.conv1[0].weight, source.conv1[0].weight)
        assert torch.equal(one.conv1[0].weight, other.conv1[0].weight)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def error_of(file: Path) -> str:
    with pytest.raises(BiasEnsembleError) as caught:
        METHODS["erm"].network(starting_from(file), NAMES, 0)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_named(source, tmp_path):
    state = source.state_dict()
    first, *_, last = [name for name in state if name.startswith("layer")]
    state["stranger.weight"] = state.pop(first)
    state[last] = torch.zeros(3, 2)
    file = tmp_path / "other.pth"
    torch.save(state, file)
    message = error_of(file)
    assert f"1 missing ({first})" in message and "1 unknown (stranger.weight)" in message
    assert f"1 of another shape ({last} (3, 2) instead of " in message and "--backbone" in message


def test_another_architecture_is_refused(tmp_path):
    file = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    assert "missing (conv1.0.weight, " in error_of(file)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    assert "expected safetensors or a state dict of torch.save, found neither" in error_of(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_file_without_weights_is_refused(tmp_path):
    (tmp_path / "words.pth").write_bytes(b"words")
    assert "found neither" in error_of(tmp_path / "words.pth")


@pytest.mark.parametrize(
    "settings, expected",
    [
        (
            {"backbone": BACKBONE, "pretrained_weights": "nowhere.pth"},
            "expected a file with weights, found nowhere.pth",
        ),
        ({"pretrained_weights": __file__}, "expected a timm backbone, found the MLP"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, expected):
    with pytest.raises(BiasEnsembleError, match=f"--pretrained_weights: {expected}"):
        ModelArguments(**settings)


def test_offline_without_a_file_says_how_to_name_one(digits, tmp_path, capsys):
    changes = {"backbone": "resnet18.tv_in1k", "pretrained": "true", "image_size": 32}
    assert train(digits, tmp_path / "out", **changes) == 2
    line = error_line(capsys)
    assert "pretrained weights of resnet18.tv_in1k could not be loaded" in line
    assert "--pretrained_weights FILE" in line


def test_a_run_starts_from_the_file(source, digits, tmp_path):
    changes = {"backbone": BACKBONE, "image_size": 32, "max_steps": 1, "learning_rate": 1e-9}
    file = saved(source, tmp_path, "safetensors")
    assert train(digits, tmp_path / "plain", **changes) == 0
    assert train(digits, tmp_path / "out", pretrained_weights=file, **changes) == 0
    kept = {
        name.removeprefix("timm_model."): tensor
        for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()
    }
    assert torch.allclose(kept["conv1.0.weight"], source.conv1[0].weight, atol=1e-6)
    assert weights(tmp_path / "out") != weights(tmp_path / "plain")
