"""Backbones and sizes that do not fit are refused before training; those that do are trained and opened again."""

import json
from pathlib import Path

import pytest
import torch
from runs import METHODS, content, error_line, slow_but, train

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.models.build import check_backbone
from hf_biasensemble.models.export import load_classifier


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    "backbone, size, arguments, messages",
    [
        ("test_resnet", 32, '{"global_pool": ""}', ["expected pooled features (B, 96), found shape (1, 96, 1, 1)"]),
        ("test_resnet", 32, '{"features_only": true}', ["expected pooled features (B, num_features), found several"]),
        ("test_vit3", 64, None, ["--image_size 64", "(64) doesn't match model (160)", "'{\"img_size\": 64}'"]),
        ("inception_v3", 32, None, ["--backbone inception_v3 at --image_size 32", "Kernel size", "use the size"]),
        ("test_resnet", 32, '{"img_size": 32}', ["unexpected keyword argument 'img_size'", "--backbone_args {'img_"]),
        ("test_resnet", 32, '{"act_layer": "smooth"}', ["--backbone_args {'act_layer': 'smooth'}: "]),
        ("test_vit3", 160, '{"patch_size": 0}', ["--backbone_args {'patch_size': 0}: ZeroDivisionError"]),
        ("google/vit-base-patch16-224", 224, None, ["folder or Hub id of an image classifier, found none"]),
        ("local-dir:nowhere", 32, None, ["Config file not found: nowhere"]),
        ("ftp:nowhere", 32, None, ["Unknown model source 'ftp'"]),
        ("resnett18", 32, None, ["Unknown model (resnett18)", "similar name: "]),
    ],
)
def test_backbone_that_does_not_fit_is_refused_in_one_line(backbone, size, arguments, messages, batch_size):
    model_args = ModelArguments(backbone=backbone, image_size=size, backbone_args=arguments)
    with pytest.raises(BiasEnsembleError) as raised:
        check_backbone(model_args, batch_size)
    assert all(message in str(raised.value) for message in messages), raised.value
    assert backbone in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("backbone", ["google/vit-base-patch16-224", "local-dir:nowhere", "resnett18"])
@pytest.mark.parametrize("pretrained", ["true", "false"])
def test_backbone_that_timm_does_not_know_is_one_line_of_the_command(backbone, pretrained, digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", backbone=backbone, pretrained=pretrained) == 2
    assert f"--backbone {backbone}: " in error_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backbone, size", [("mlp", 28), ("mlp", 7), ("test_resnet", 32), ("test_mambaout", 32)])
def test_backbone_that_fits_passes_and_leaves_the_random_state(backbone, size):
    state = torch.get_rng_state()
    check_backbone(ModelArguments(backbone=backbone, image_size=size), batch_size=2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_checks_before_anything_is_written(digits, tmp_path, capsys, method):
    start = {"init_from": tmp_path} if ALL_METHODS[method].starts_from else {}  # not looked at before the backbone
    assert train(digits, tmp_path / "out", method, backbone="test_vit3", image_size=32, **start) == 2
    assert "--backbone test_vit3 at --image_size 32" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_run_that_cannot_start_does_not_remove_the_one_before(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", max_steps=1) == 0
    before = content(tmp_path / "out")
    assert train(digits, tmp_path / "out", backbone="resnett18", overwrite_output_dir="true") == 2
    assert "resnett18" in error_line(capsys)
    assert content(tmp_path / "out") == before


def test_image_size_is_passed_on_to_a_backbone_that_has_the_argument(digits, tmp_path):
    given = {"backbone": "test_vit3", "image_size": 32, "backbone_args": '{"img_size": 32}', "max_steps": 1}
    assert train(digits, tmp_path / "out", **given) == 0


@pytest.mark.parametrize("method", ["erm", "disent"])
def test_backbone_with_a_layer_after_the_pooling(digits, tmp_path, method):
    """Its features are wider than timm's `num_features`."""
    assert train(digits, tmp_path / "out", method, backbone="mobilenetv3_small_050", image_size=32, max_steps=2) == 0
    model, _, geometry = load_classifier(str(tmp_path / "out"))
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, geometry.image_size, geometry.image_size)).logits.shape == (2, 4)


# Batch normalisation and batches of one ------------------------------------------------------------------------------

LAST_OF_ONE = {"per_device_train_batch_size": 19, "dataloader_drop_last": "false", "max_steps": 7}  # 96 = 5 * 19 + 1
RESNET = {"backbone": "test_resnet", "image_size": 32}


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("hf_biasensemble")]


@pytest.mark.parametrize("method", slow_but(METHODS, "lff_be"))
def test_last_batch_of_one_is_left_out_where_batch_normalisation_fails_on_it(digits, tmp_path, caplog, method):
    wanted = {"member_threshold": 0, "member_agreement": 1, "swap_start_step": 2, "first_stage_steps": 2}
    wanted = {name: value for name, value in wanted.items() if name in ALL_METHODS[method].option_names()}
    given = {**LAST_OF_ONE, **RESNET, **wanted}
    assert train(digits, tmp_path / "out", method, **given) == 0
    said = [warning for warning in warnings(caplog) if "leaves out its last batch" in warning]
    assert "96 samples in batches of 19" in said[0] and len(said) >= 1 + (ALL_METHODS[method].selector is not None)
    assert torch.load(tmp_path / "out/checkpoint-7/optimizer.pt", weights_only=True)["state"][0]["step"] == 7
    assert last_epoch(tmp_path / "out") == pytest.approx(7 / 5)  # five batches an epoch


def last_epoch(folder: Path) -> float:
    return json.loads((folder / "trainer_state.json").read_text())["epoch"]


@pytest.mark.parametrize(
    "changes, epoch",
    [
        ({"backbone": "mlp", "image_size": 28}, 7 / 6),  # no batch normalisation: the batch of one is trained on
        ({"per_device_train_batch_size": 47}, 7 / 3),  # a last batch of two
        ({"per_device_train_batch_size": 19, "dataloader_drop_last": "true"}, 7 / 5),
        ({"per_device_train_batch_size": 97}, 7),  # the only batch
    ],
)
def test_other_last_batches_stay_as_they_are(digits, tmp_path, caplog, changes, epoch):
    assert train(digits, tmp_path / "out", **{**LAST_OF_ONE, **RESNET, **changes}) == 0
    assert not warnings(caplog)
    assert last_epoch(tmp_path / "out") == pytest.approx(epoch, rel=0.05)


def test_batches_of_one(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", **RESNET, per_device_train_batch_size=1) == 2
    message = error_line(capsys)
    assert "expected two or more samples in a training batch, found one" in message
    assert "--per_device_train_batch_size" in message and "--image_size" in message
    assert not (tmp_path / "out").exists()
    # Where the feature maps are larger than one pixel, or nothing is normalised over the batch, one sample is enough.
    for number, fits in enumerate(({**RESNET, "image_size": 64}, {"backbone": "mlp"})):
        assert train(digits, tmp_path / str(number), **fits, per_device_train_batch_size=1, max_steps=2) == 0
