"""Layers that stay as they were pretrained, to the bit, and backbones at a learning rate of their own."""

import json

import pytest
import timm
import torch
from photographs import BACKBONE, photograph_folder, weights_file
from runs import error_line, train, weights
from safetensors.torch import load_file
from torch import nn

from hf_biasensemble.arguments import DebiasingArguments, ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.build import build_members
from hf_biasensemble.models.fine_tuning import freeze_first_layers, layers_of, parameter_groups
from hf_biasensemble.models.preprocessing import with_preprocessing
from hf_biasensemble.selection import Selection

SMALL = {"backbone": BACKBONE, "image_size": 32, "max_steps": 4, "save_steps": 2, "learning_rate": 0.01}
SELECTION = {"member_steps": 3, "member_threshold": 0, "member_agreement": 1}
STAGES = [("conv1.", "bn1"), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights") / "weights.safetensors")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return photograph_folder(tmp_path_factory.mktemp("photographs") / "data")


# Layers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "backbone, first, last, count",
    [
        ("resnet18", "conv1.", "layer4.", 5),
        ("test_efficientnet", "conv_stem.", "blocks.4.", 6),
        ("test_vit", "cls_token", "blocks.5.", 7),
        ("test_convnext", "stem.", "head.", 6),
    ],
)
def test_layers_are_the_stages_from_the_image_to_the_features(backbone, first, last, count):
    encoder = timm.create_model(backbone, num_classes=0)
    layers = layers_of(encoder)
    assert len(layers) == count
    assert any(name.startswith(first) for name in layers[0]) and any(name.startswith(last) for name in layers[-1])
    assert sorted(sum(layers, [])) == sorted(name for name, _ in encoder.named_parameters())


def test_layers_of_a_network_that_timm_does_not_group_are_its_children():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2))
    encoder.scale = nn.Parameter(torch.ones(1))
    assert layers_of(encoder) == [["scale"], ["0.weight", "0.bias"], ["2.weight", "2.bias"]]


@pytest.mark.parametrize("train_layers", [None, 0, 1, 3, 5])
def test_last_layers_are_trained(train_layers):
    encoder = timm.create_model(BACKBONE, num_classes=0)
    freeze_first_layers(encoder, train_layers)
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    stages = STAGES if train_layers is None else STAGES[5 - train_layers :]
    assert trained == [name for name, _ in encoder.named_parameters() if name.startswith(sum(stages, ()))]


def test_training_mode_leaves_frozen_layers_in_evaluation(file):
    arguments = {"backbone": BACKBONE, "pretrained_weights": str(file)}
    for train_layers, training in ((0, ()), (2, ("layer3.", "layer4.")), (None, sum(STAGES, ()))):
        model_args = with_preprocessing(ModelArguments(**arguments, train_layers=train_layers))
        for model in (METHODS["lff"].network(model_args, ["a", "b"], 0), build_members(model_args, ["a", "b"], 2, 0)):
            for mode in (True, False, True):
                model.train(mode)
            norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
            for name, module in norms.items():
                assert module.training == name.split("encoder.")[1].startswith(training), (train_layers, name)
            assert len(norms) == 30


def test_features_of_a_frozen_backbone_have_no_dropout(tmp_path):
    arguments = {"backbone": BACKBONE, "backbone_args": '{"drop_rate": 0.5, "drop_path_rate": 0.5}'}
    file = weights_file(tmp_path / "weights.safetensors")
    images = torch.rand(4, 3, 64, 64)
    for train_layers, same in ((0, True), (None, False)):
        given = ModelArguments(**arguments, pretrained_weights=str(file), train_layers=train_layers)
        model = METHODS["erm"].network(with_preprocessing(given), ["a", "b"], 0).train()
        assert torch.equal(model(images).logits, model(images).logits) == same


PUBLISHED = {"erm": {}, "lff_be": SELECTION, "disent": {}, "average": {"weight_average": 0.9}}


@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize("train_layers", [0, 2])
def test_published_weights_of_frozen_layers_are_bitwise_the_pretrained_ones(
    kind, train_layers, file, photographs, tmp_path
):
    changes = {**SMALL, **PUBLISHED[kind], "pretrained_weights": file, "train_layers": train_layers}
    method = "erm" if kind == "average" else kind
    assert train(photographs, tmp_path / "out", method, **changes) == 0
    before, after = load_file(file), load_file(tmp_path / "out" / "model.safetensors")
    frozen, trained = sum(STAGES[: 5 - train_layers], ()), sum(STAGES[5 - train_layers :], ())
    prefixes = ("encoder.", "bias_encoder.") if method == "disent" else ("",)
    for prefix in prefixes:
        seen = set()
        for name, value in before.items():
            if name.startswith(frozen):
                assert torch.equal(after[prefix + name], value), name
                seen.add(name.rpartition(".")[2])
            elif name.startswith(trained):
                assert not torch.equal(after[prefix + name], value), name  # statistics and counts included
        assert {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"} <= seen


# Learning rates ------------------------------------------------------------------------------------------------------


def test_encoders_are_a_group_of_their_own():
    for method, heads in (("erm", 2), ("lff", 4), ("disent", 4)):
        model = METHODS[method].network(ModelArguments(backbone=BACKBONE, image_size=32), ["a", "b"], 0)
        others, encoders = parameter_groups(model, 1e-5)
        assert encoders["lr"] == 1e-5 and "lr" not in others
        assert len(others["params"]) == heads  # weight and bias of each classifier
        assert len(encoders["params"]) + heads == len(list(model.parameters()))


def test_same_rate_given_twice_changes_nothing(photographs, tmp_path):
    for name, changes in (("one", {}), ("two", {"backbone_learning_rate": 0.01})):
        assert train(photographs, tmp_path / name, "lff", **SMALL, **changes) == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_backbone_moves_by_its_own_rate(photographs, tmp_path):
    changes = {**SMALL, "backbone_learning_rate": 1e-9, "lr_scheduler_type": "linear"}
    assert train(photographs, tmp_path / "out", **changes) == 0
    first, last = (load_file(tmp_path / f"out/checkpoint-{step}/model.safetensors") for step in (2, 4))
    moved = {name: float((last[name] - first[name]).abs().max()) for name in first if "running" not in name}
    parameters = {name: distance for name, distance in moved.items() if "num_batches" not in name}
    assert min(distance for name, distance in parameters.items() if name.startswith("classifier.")) > 1e-4
    assert max(distance for name, distance in parameters.items() if name.startswith("encoder.")) < 1e-6
    state = torch.load(tmp_path / "out/checkpoint-2/optimizer.pt", weights_only=True)
    assert [group["lr"] for group in state["param_groups"]] == pytest.approx([0.005, 5e-10])  # halfway down, both
    logged = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in logged if "learning_rate" in entry]
    assert rates and min(rates) > 1e-4  # that of the classifier


def test_resumed_with_two_groups_and_frozen_layers_as_if_never_stopped(file, photographs, tmp_path):
    changes = {**SMALL, "pretrained_weights": file, "train_layers": 2, "backbone_learning_rate": 1e-3}
    assert train(photographs, tmp_path / "whole", "lff", **changes) == 0
    assert train(photographs, tmp_path / "half", "lff", **{**changes, "max_steps": 2}) == 0
    assert train(photographs, tmp_path / "half", "lff", **changes, resume_from_checkpoint="true") == 0
    assert weights(tmp_path / "whole") == weights(tmp_path / "half")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"backbone_learning_rate": 1e-4}, {"train_layers": 0}])
def test_members_are_trained_alike_and_their_selection_says_so(changes, file, photographs, tmp_path, capsys):
    given = {**SMALL, **SELECTION, "pretrained_weights": file, "member_steps": 8, "selection_dir": tmp_path / "shared"}
    assert train(photographs, tmp_path / "plain", "lff_be", **given) == 0
    capsys.readouterr()
    assert train(photographs, tmp_path / "refused", "lff_be", **given, **changes) == 2
    assert f"was made with other settings: {next(iter(changes))} (then: None" in error_line(capsys)
    own = {**given, "selection_dir": tmp_path / "own", **changes}
    assert train(photographs, tmp_path / "changed", "lff_be", **own) == 0
    plain, changed = (Selection.load(tmp_path / name / "selection") for name in ("plain", "changed"))
    assert (plain.mean_probability != changed.mean_probability).any()


# Mistakes ------------------------------------------------------------------------------------------------------------


def test_more_layers_than_there_are(file, photographs, tmp_path, capsys):
    changes = {**SMALL, "pretrained_weights": file, "train_layers": 6}
    assert train(photographs, tmp_path / "out", **changes) == 2
    assert "--train_layers: expected at most 5, as many as the backbone has, found 6" in error_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"train_layers": -1, "backbone": BACKBONE, "pretrained": True},
            "expected 0 or more, found -1",
        ),
        ({"train_layers": 1, "backbone": BACKBONE}, "--pretrained or --pretrained_weights with it, found test_resnet"),
        ({"train_layers": 0}, "--train_layers: expected --pretrained or .*, found mlp from scratch"),
    ],
)
def test_layers_that_make_no_sense_are_refused(changes, expected):
    with pytest.raises(BiasEnsembleError, match=expected):
        ModelArguments(**changes)


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("inf"), float("nan")])
def test_rates_that_make_no_sense_are_refused(rate, tmp_path):
    with pytest.raises(BiasEnsembleError, match="--backbone_learning_rate: expected above 0"):
        DebiasingArguments(output_dir=str(tmp_path), backbone_learning_rate=rate)
