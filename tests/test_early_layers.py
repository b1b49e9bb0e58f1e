"""Members of a frozen backbone read features of its early layers: which ones, how they are kept, and for whom."""

import numpy as np
import pytest
import timm
import torch
from photographs import weights_file
from runs import content, error_line, selection_inputs, train
from safetensors.torch import load_file
from torch import nn

from hf_biasensemble.judging.members import Members
from hf_biasensemble.models.early_layers import EarlyAndFinal, early_layers
from hf_biasensemble.selection import Selection


@pytest.mark.parametrize(
    "backbone, layers, channels",
    [
        ("tf_efficientnet_lite0", [0, 1, 2, 3], (16, 24, 40, 112)),  # blocks 0, 1, 2 and 4 of 7
        ("resnet18", [0, 1, 2, 3], (64, 64, 128, 256)),
        ("convnext_atto", [0, 1, 2], (40, 80, 160)),
        ("vit_tiny_patch16_224", [1, 3, 5, 7], (192,) * 4),  # of 12
    ],
)
def test_layers_are_those_before_the_last_stage_or_up_to_two_thirds_of_the_depth(backbone, layers, channels):
    network = timm.create_model(backbone, num_classes=0)
    assert early_layers([output["reduction"] for output in network.feature_info]) == layers
    assert EarlyAndFinal(network, 224).early_width == 2 * sum(channels)


def test_features_are_mean_and_deviation_of_the_maps_and_logarithms_after_a_relu():
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=0).eval()
    encoder, images = EarlyAndFinal(network, 64), torch.randn(3, 3, 64, 64)
    maps = []
    for module in (network.act1, network.layer1, network.layer2, network.layer3):
        module.register_forward_hook(lambda _, inputs, output: maps.append(output))
    with torch.inference_mode():
        expected = [network(images)]
        for values in maps:
            flat = values.flatten(2).double()
            expected += [flat.mean(2).log1p().float(), flat.var(2, correction=0).sqrt().log1p().float()]
        found = encoder(images)
    assert encoder.never_negative == [True] * 4
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-5, rtol=1e-5)
    assert torch.equal(found[:, encoder.columns("final")], expected[0])
    assert found[:, encoder.columns("early")].shape[1] == encoder.early_width


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_maps_that_can_be_negative_have_no_logarithm(backbone):
    encoder = EarlyAndFinal(timm.create_model(backbone, num_classes=0), 224)
    assert not any(encoder.never_negative)
    assert encoder(torch.randn(1, 3, 224, 224)).isfinite().all()


class NoMaps(nn.Module):
    num_features = 5

    def forward(self, images):
        return images.mean(dim=(2, 3)).repeat(1, 2)[:, :5]


def test_a_network_without_such_outputs_has_final_features_only():
    encoder = EarlyAndFinal(NoMaps(), 8)
    assert encoder.early_width == 0 and encoder(torch.ones(2, 3, 8, 8)).shape == (2, 5)


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def frozen(tmp_path):
    file = weights_file(tmp_path / "backbone.safetensors", "test_resnet")
    network = {"backbone": "test_resnet", "pretrained_weights": file, "image_size": 32, "freeze_backbone": "true"}
    return {**network, "member_threshold": 0.3, "max_steps": 4}


def test_members_read_early_features_and_the_classifier_final_ones(digits, frozen, tmp_path):
    assert train(digits, tmp_path / "out", "group_dro_be", **frozen) == 0
    members = Members.load(tmp_path / "out")
    assert members.features == "early" and members.backbone is not None
    assert members.networks.members[0].classifier.in_features == members.backbone.network.early_width
    made = Selection.load(tmp_path / "out" / "selection")
    assert made.provenance["member_features"] == made.provenance["features_of_members"] == "early"
    inputs = selection_inputs(digits, tmp_path / "other", "group_dro_be", **frozen)[1]
    of_features = members.groups_of(inputs.encoded["early"]["validation"])
    from_images = members.groups_of(inputs.images["validation"])
    np.testing.assert_allclose(from_images.label_probability, of_features.label_probability, atol=2e-3)
    assert inputs.network_args.backbone_args != inputs.member_args.backbone_args
    assert inputs.encoded["early"]["train"].fingerprint == inputs.images["train"].fingerprint


def test_final_features_on_demand_are_of_the_same_store(digits, frozen, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert train(digits, tmp_path / "early", "group_dro_be", **frozen) == 0
    stores = {file: file.stat().st_ino for file in (tmp_path / "cache").rglob("features/*.npy")}
    assert len(stores) == 3
    assert train(digits, tmp_path / "final", "group_dro_be", **frozen, member_features="final") == 0
    assert {file: file.stat().st_ino for file in (tmp_path / "cache").rglob("features/*.npy")} == stores
    members = Members.load(tmp_path / "final")
    assert members.features == "final"
    assert members.networks.members[0].classifier.in_features == members.backbone.network.width


def test_members_read_early_features_of_a_backbone_that_the_classifier_trains(digits, frozen, tmp_path):
    """As of the frozen backbone: members of both vote alike, and the published network is trained as a whole."""
    trained = {**frozen, "freeze_backbone": "false", "member_features": "early"}
    assert train(digits, tmp_path / "out", "lff_be", **trained) == 0
    assert train(digits, tmp_path / "frozen", "lff_be", **frozen, feature_views=0) == 0
    votes, same = (Selection.load(tmp_path / name / "selection") for name in ("out", "frozen"))
    np.testing.assert_array_equal(votes.mean_probability, same.mean_probability)
    members = Members.load(tmp_path / "out")
    assert members.features == "early" and members.network_args.backbone == "features"
    before, after = load_file(frozen["pretrained_weights"]), load_file(tmp_path / "out" / "model.safetensors")
    first = next(name for name in before if name.endswith("weight"))
    assert not before[first].equal(after[first])


def test_a_backbone_without_early_layers_is_refused_before_anything_is_written(
    digits, frozen, tmp_path, monkeypatch, capsys
):
    """A frozen one has final features in their place; of one that is trained as a whole there are none."""
    trained = {**frozen, "freeze_backbone": "false", "member_features": "early"}
    assert train(digits, tmp_path / "out", "erm", max_steps=4) == 0
    before = content(tmp_path / "out")
    monkeypatch.setattr("hf_biasensemble.models.early_layers.early_layers", lambda reductions: [99])
    for asked in ({"overwrite_output_dir": "true"}, {"overwrite_output_dir": "true", "dry_run": "true"}):
        assert train(digits, tmp_path / "out", "lff_be", **trained, **asked) == 2
        said = "expected final, since test_resnet gives no outputs of early layers, found early"
        assert error_line(capsys) == f"error: --member_features: {said}"
        assert content(tmp_path / "out") == before


@pytest.mark.parametrize("changes", [{"augmentation": "none"}, {"crop_padding": 2}])
def test_dry_run_counts_the_features_that_members_see_of_a_trained_backbone(digits, frozen, changes, tmp_path, capsys):
    options = {**frozen, "freeze_backbone": "false", "member_features": "early", "feature_views": 2, **changes}
    assert train(digits, tmp_path / "out", "lff_be", **options, dry_run="true") == 0
    inputs = selection_inputs(digits, tmp_path / "out", "lff_be", **options)[1]
    rows = sum(split.pixels.shape[:-1].numel() for split in inputs.encoded["early"].values())
    assert inputs.backbone is not None
    values = rows * (inputs.backbone.network.width + inputs.backbone.network.early_width)
    assert f"{2 * values / 1000:.3g} kB of features" in capsys.readouterr().out


def test_early_features_are_refused_without_pretrained_weights(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "lff_be", member_features="early") == 2
    assert "--member_features: expected final, or a pretrained backbone that has early layers, found early" in (
        error_line(capsys)
    )
    assert train(digits, tmp_path / "out", "lff_be", member_features="middle") == 2
    assert "--member_features: expected one of early, final, found middle" in error_line(capsys)
