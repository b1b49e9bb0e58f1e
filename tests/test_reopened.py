"""What is published is what was trained: networks whose state is more than their weights open again as they were."""

import json
import shutil

import pytest
import timm
import torch
from runs import error_line, results, train
from safetensors.torch import save_file

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.export import load_classifier, save_classifier
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier

SMALL_SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 12, "depths": [2], "num_heads": [1]}
SMALL = {
    "resnetblur18": ("resnetblur18", 32, {"channels": [8, 8, 8, 8]}),  # the filter of its pooling
    "swin": ("swin_tiny_patch4_window7_224", 32, SMALL_SWIN),  # the index of its position bias
    "coat": (  # weights of two names
        "coat_tiny",
        32,
        {"embed_dims": [16] * 4, "serial_depths": [1] * 4, "parallel_depth": 1, "img_size": 32},
    ),
    "dla": ("dla46x_c", 32, {}),  # a convolution of one pixel for a classifier
}


def perturbed(name: str, encoders: int, head_hidden: int | None = None) -> DebiasedImageClassifier:
    """A small network with weights and statistics that no initialisation has."""
    backbone, size, arguments = SMALL[name]
    model_args = ModelArguments(backbone=backbone, image_size=size, backbone_args=json.dumps(arguments))
    config = classifier_config(model_args, ["a", "b", "c"], encoders)
    config.head_hidden = head_hidden
    torch.manual_seed(0)
    model = DebiasedImageClassifier(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@torch.inference_mode()
def reopened_difference(model: DebiasedImageClassifier, folder) -> float:
    """Largest difference of logits, where memory is not zero by chance."""
    images = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    save_classifier(model, ImageTransform((0.5,) * 3, (0.25,) * 3, image_size=model.config.image_size), folder)
    junk = [torch.randint(1, 1000, (size,)) for size in (100, 1000, 2401, 10000, 40000)]
    del junk
    return float((model(images).logits - load_classifier(str(folder))[0](images).logits).abs().max())


@pytest.mark.parametrize("encoders, head_hidden", [(1, None), (2, None), (1, 8)])
@pytest.mark.parametrize("name", SMALL)
def test_network_opens_as_it_was_saved(name, encoders, head_hidden, tmp_path):
    assert reopened_difference(perturbed(name, encoders, head_hidden), tmp_path) < 1e-5


@pytest.mark.parametrize("name", ["dla", "coat", "resnetblur18"])
def test_network_that_timm_expresses_is_saved_for_timm(name, tmp_path):
    reopened_difference(perturbed(name, 1), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "timm_wrapper"
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).num_classes == 3


def test_run_with_a_shared_weight_goes_on_from_a_checkpoint(digits, tmp_path):
    backbone, size, arguments = SMALL["coat"]
    given = {"backbone": backbone, "image_size": size, "backbone_args": json.dumps(arguments)}
    given |= {"weight_average": 0.9, "max_steps": 6, "checkpoint_choice": "validation_accuracy"}
    assert train(digits, tmp_path / "out", "lff", **given) == 0
    found = results(tmp_path / "out")["test_accuracy"]
    for name in ("model.safetensors", "all_results.json"):
        (tmp_path / "out" / name).unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    assert train(digits, tmp_path / "out", "lff", **given, resume_from_checkpoint="true") == 0
    assert results(tmp_path / "out")["test_accuracy"] == found
    given = ["--model", tmp_path / "out", "--dataset_name", digits, "--output_file", tmp_path / "measured.json"]
    assert run_command("test", [str(word) for word in given]) == 0
    assert json.loads((tmp_path / "measured.json").read_text())["test_accuracy"] == found


# In timm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnetblur18", "dla", "swin"])
def test_published_folder_is_adapted_in_timm(name, tmp_path):
    model = perturbed(name, 1)
    reopened_difference(model, tmp_path)
    source = f"local-dir:{tmp_path}"
    size = model.config.image_size
    other_head = timm.create_model(source, pretrained=True, num_classes=5).eval()
    grey = timm.create_model(source, pretrained=True, in_chans=1).eval()
    with torch.inference_mode():
        images = torch.randn(2, 3, size, size)
        features = other_head.forward_head(other_head.forward_features(images), pre_logits=True).flatten(1)
        torch.testing.assert_close(features, model.encoder(images), rtol=0, atol=1e-5)
        assert other_head(images).shape == (2, 5)
        # A colour image whose channels are alike, through the first convolution whose channels are summed.
        logits = model(images[:, :1].expand(-1, 3, -1, -1)).logits
        torch.testing.assert_close(grey(images[:, :1]), logits, rtol=1e-4, atol=1e-4)


@pytest.fixture
def timm_folder(tmp_path):
    """A classifier as timm saves it, in a folder."""
    torch.manual_seed(5)
    network = timm.create_model("test_vit3", img_size=32, num_classes=7)
    folder = tmp_path / "secret place"
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return folder


@pytest.mark.parametrize("method", ["erm", "disent"])
def test_folder_of_timm_is_a_backbone_and_no_published_file_names_it(method, digits, timm_folder, tmp_path):
    given = {"backbone": f"local-dir:{timm_folder}", "pretrained": "true", "learning_rate": 1e-9, "max_steps": 1}
    assert train(digits, tmp_path / "out", method, **given, image_size=32) == 0
    assert "secret place" not in (tmp_path / "out" / "config.json").read_text()
    model, _, _ = load_classifier(str(tmp_path / "out"))
    network = timm.create_model(f"local-dir:{timm_folder}", pretrained=True, num_classes=0).eval()
    encoder = model.timm_model if method == "erm" else model.encoder
    with torch.inference_mode():
        images = torch.randn(2, 3, 32, 32)
        features = encoder.forward_head(encoder.forward_features(images), pre_logits=True)
        torch.testing.assert_close(features, network(images), rtol=0, atol=1e-4)


# Before training -----------------------------------------------------------------------------------------------------


class ForgetfulResNet(timm.models.ResNet):
    """Its output depends on a buffer that is not saved and that nothing fills again."""

    def __init__(self, **kwargs):
        super().__init__(timm.models.resnet.BasicBlock, [1, 1, 1, 1], channels=[8, 8, 8, 8], **kwargs)
        self.register_buffer("factor", torch.full((4321,), 3.0), persistent=False)

    def forward_features(self, images):
        return super().forward_features(images) * self.factor[0]


class BrokenResNet(ForgetfulResNet):
    """Gives no numbers."""

    def forward_features(self, images):
        return super().forward_features(images) * float("nan")


@pytest.fixture(scope="module")
def own_networks():
    """Two networks of the user's own, known to timm."""

    def zoo_forgetful_resnet(pretrained=False, **kwargs):
        return timm.models.build_model_with_cfg(ForgetfulResNet, "zoo_forgetful_resnet", pretrained, **kwargs)

    def zoo_broken_resnet(pretrained=False, **kwargs):
        return timm.models.build_model_with_cfg(BrokenResNet, "zoo_broken_resnet", pretrained, **kwargs)

    for entry in (zoo_forgetful_resnet, zoo_broken_resnet):
        entry.__module__ = "timm.models.resnet"
        timm.models.register_model(entry)


@pytest.mark.parametrize("method", ["lff_be", "disent_be"])
@pytest.mark.parametrize("backbone, found", [("forgetful", "found another "), ("broken", "found logits that are not")])
def test_network_that_cannot_be_published_is_refused_before_anything_is_written(
    own_networks, backbone, found, method, digits, tmp_path, capsys
):
    junk = [torch.full((4321,), 7.0) for _ in range(20)]
    del junk  # so that uninitialised memory is not zero by chance
    assert train(digits, tmp_path / "out", method, backbone=f"zoo_{backbone}_resnet", image_size=32) == 2
    message = error_line(capsys)
    assert (
        f"--backbone zoo_{backbone}_resnet: expected a network that can be saved and reopened unchanged" in message
        and found in message
    )
    assert "factor" in message or backbone == "broken"
    assert not (tmp_path / "out").exists()


def test_composite_of_a_frozen_backbone_is_what_is_checked(own_networks, digits, tmp_path, capsys):
    torch.manual_seed(0)
    weights = timm.create_model("zoo_forgetful_resnet", num_classes=0).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    given = {"backbone": "zoo_forgetful_resnet", "pretrained_weights": tmp_path / "weights.safetensors"}
    given |= {"image_size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    junk = [torch.full((4321,), 7.0) for _ in range(20)]
    del junk
    assert train(digits, tmp_path / "out", "lff_be", **given, freeze_backbone="true", head="mlp") == 2
    assert "found another encoder.backbone.factor" in error_line(capsys)
