"""Which preprocessing a network has, and that a run, its config.yaml and its published model all say the same."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
import yaml
from photographs import BACKBONE, SHAPES, photograph, photograph_folder, weights_file
from PIL import Image
from runs import error_line, results, run_command, train, trained_logits, weights, words
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_biasensemble.arguments import DataArguments, ModelArguments
from hf_biasensemble.data.prepare import image_geometry, image_transform, load_image_splits
from hf_biasensemble.evaluation.classifier import predict_logits
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.build import check_backbone
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.models.preprocessing import with_preprocessing
from hf_biasensemble.runs.run_arguments import parse_run

OWN = {  # of `BACKBONE`, by timm
    "image_size": 160,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "crop_pct": 0.95,
    "resize_mode": "crop",
}
DEFAULTS = {
    "image_size": 28,
    "image_mean": [0.0, 0.0, 0.0],
    "image_std": [1.0, 1.0, 1.0],
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "resize_mode": "squash",
}
GIVEN = {
    "image_size": 64,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.3, 0.2, 0.1],
    "interpolation": "bicubic",
    "crop_pct": 0.8,
    "resize_mode": "squash",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights") / "weights.safetensors")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return photograph_folder(tmp_path_factory.mktemp("photographs") / "data")


# Which options hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["mlp", BACKBONE])
def test_network_from_scratch_has_the_defaults(backbone):
    assert with_preprocessing(ModelArguments(backbone=backbone)).preprocessing() == DEFAULTS


def test_pretrained_backbone_brings_its_own(file):
    for pretrained in ({"pretrained": True}, {"pretrained_weights": str(file)}):
        assert with_preprocessing(ModelArguments(backbone=BACKBONE, **pretrained)).preprocessing() == OWN


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("pretrained, otherwise", [(True, OWN), (False, DEFAULTS)])
def test_each_option_that_is_given_wins_and_leaves_the_others(name, pretrained, otherwise):
    given = ModelArguments(backbone=BACKBONE, pretrained=pretrained, **{name: GIVEN[name]})
    assert with_preprocessing(given).preprocessing() == {**otherwise, name: GIVEN[name]}


def test_squashing_backbone_is_known_as_one():
    name = next(name for name in timm.list_models() if timm.get_pretrained_cfg(name).crop_mode == "squash")
    settled = with_preprocessing(ModelArguments(backbone=name, pretrained=True))
    assert (settled.resize_mode, settled.image_size) == ("squash", timm.get_pretrained_cfg(name).input_size[-1])


def test_settled_arguments_stay_as_they_are(file):
    settled = with_preprocessing(ModelArguments(backbone=BACKBONE, pretrained_weights=str(file)))
    assert with_preprocessing(settled) == settled


def test_arguments_that_are_not_settled_are_of_no_use_yet():
    open_arguments = ModelArguments(backbone=BACKBONE, pretrained=True, image_size=32)
    for function in (image_geometry, image_transform, lambda given: check_backbone(given, 2)):
        with pytest.raises(BiasEnsembleError, match="expected --image_mean, .* call .*with_preprocessing first"):
            function(open_arguments)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"backbone": "vit_base_patch16_sapiens2"}, "expected pretrained weights for square .*; give --image_size"),
        ({"backbone": "resnet18.nonsense"}, "Invalid pretrained tag .nonsense. for resnet18"),
        ({"backbone": "resnett18"}, "Unknown model .resnett18.*similar name: "),
        ({"backbone": BACKBONE, "image_scale": 255.0}, "--image_scale: expected 1 with the mean and .*, found 255"),
    ],
)
def test_pretrained_backbone_whose_preprocessing_cannot_be_settled(changes, expected):
    with pytest.raises(BiasEnsembleError, match=expected) as raised:
        with_preprocessing(ModelArguments(pretrained=True, **changes))
    assert "\n" not in str(raised.value) and changes["backbone"] in str(raised.value)


def test_pretrained_backbone_that_timm_knows_nothing_of():
    @timm.models.register_model
    def resnet_of_unknown_origin(pretrained=False, **options):
        return timm.create_model(BACKBONE, **options)

    with pytest.raises(BiasEnsembleError, match="found nothing; give --image_size, --image_mean, --image_std$"):
        with_preprocessing(ModelArguments(backbone="resnet_of_unknown_origin", pretrained=True))
    with pytest.raises(BiasEnsembleError, match="give --image_mean$"):
        some = {"image_size": 64, "image_std": [0.5] * 3}
        with_preprocessing(ModelArguments(backbone="resnet_of_unknown_origin", pretrained=True, **some))
    given = {name: GIVEN[name] for name in ("image_size", "image_mean", "image_std")}
    settled = with_preprocessing(ModelArguments(backbone="resnet_of_unknown_origin", pretrained=True, **given))
    assert settled.preprocessing() == {**DEFAULTS, **given}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"resize_mode": "border"}, "--resize_mode: expected one of crop, squash, found border"),
        ({"interpolation": "cubic"}, "--interpolation: expected one of nearest, .*, lanczos, found cubic"),
        ({"crop_pct": 0.0}, "--crop_pct: expected in .0, 1., found 0.0"),
        ({"crop_pct": 1.1}, "--crop_pct: expected in .0, 1., found 1.1"),
        ({"crop_pct": float("nan")}, "--crop_pct: expected in .0, 1., found nan"),
        ({"pretrained_weights_sha256": "ab"}, "--pretrained_weights_sha256: expected a file of --pretrained_weights"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes, expected):
    with pytest.raises(BiasEnsembleError, match=expected):
        ModelArguments(**changes)


# Runs ----------------------------------------------------------------------------------------------------------------


def settings_of(folder) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_config_file_states_what_was_settled_and_makes_the_same_run_again(file, photographs, tmp_path):
    given = {"backbone": BACKBONE, "pretrained_weights": file, "image_size": 64, "max_steps": 3}
    assert train(photographs, tmp_path / "out", **given) == 0
    stated = settings_of(tmp_path / "out")
    assert {name: stated[name] for name in OWN} == {**OWN, "image_size": 64}
    assert len(stated["pretrained_weights_sha256"]) == 64
    again = ["--config", str(tmp_path / "out" / "config.yaml"), "--output_dir", str(tmp_path / "again")]
    assert run_command("train", [*again, "--use_cpu", "true"]) == 0
    assert weights(tmp_path / "again") == weights(tmp_path / "out")


@pytest.mark.slow
def test_file_of_weights_counts_by_its_content_wherever_it_lies(file, photographs, tmp_path, capsys):
    given = {"backbone": BACKBONE, "image_size": 32, "max_steps": 2, "member_steps": 2, "member_threshold": 0}
    given |= {"member_agreement": 1, "selection_dir": tmp_path / "shared", "save_steps": 1}
    assert train(photographs, tmp_path / "out", "lff_be", pretrained_weights=file, **given) == 0
    moved = shutil.copy(file, tmp_path / "moved.safetensors")
    assert train(photographs, tmp_path / "second", "lff_be", pretrained_weights=moved, **given) == 0
    assert "selection_runtime" not in results(tmp_path / "second")  # taken, not made
    resumed = {**given, "max_steps": 3, "resume_from_checkpoint": "true"}
    assert train(photographs, tmp_path / "out", "lff_be", pretrained_weights=moved, **resumed) == 0

    other = weights_file(tmp_path / "other.safetensors", seed=4)
    capsys.readouterr()
    assert train(photographs, tmp_path / "third", "lff_be", pretrained_weights=other, **given) == 2
    assert "was made with other settings: pretrained_weights_sha256 (then: " in error_line(capsys)
    assert train(photographs, tmp_path / "out", "lff_be", pretrained_weights=other, **resumed) == 2
    assert "cannot resume the run" in (line := error_line(capsys)) and "pretrained_weights_sha256 (then: " in line
    config = ["--config", str(tmp_path / "out" / "config.yaml"), "--output_dir", str(tmp_path / "fourth")]
    assert run_command("train", [*config, "--pretrained_weights", str(other)]) == 2
    line = error_line(capsys)
    assert line.startswith("error: --pretrained_weights_sha256: expected weights ") and str(other) in line


@pytest.mark.slow
def test_sweep_knows_a_finished_run_of_a_pretrained_backbone(file, photographs, tmp_path, capsys):
    asked = ["--methods", "erm", "--seeds", "0", "--output_dir", str(tmp_path / "sweep")]
    given = {"backbone": BACKBONE, "pretrained_weights": file, "image_size": 32, "max_steps": 1}
    pairs = {"dataset_name": photographs, "per_device_train_batch_size": 4, "use_cpu": "true", **given}
    asked += [str(word) for name, value in pairs.items() for word in (f"--{name}", value)]
    assert run_command("sweep", asked) == 0
    capsys.readouterr()
    assert run_command("sweep", asked) == 0
    assert "was finished before" in capsys.readouterr().out


def test_audit_and_training_of_a_pretrained_backbone_share_a_selection(file, photographs, tmp_path):
    given = {"backbone": BACKBONE, "pretrained_weights": file, "image_size": 32, "member_threshold": 0}
    given |= {"member_steps": 2, "member_agreement": 1, "selection_dir": tmp_path / "shared"}
    assert run_command("audit", words(photographs, tmp_path / "audit", "lff_be", **given)) == 0
    assert train(photographs, tmp_path / "out", "lff_be", max_steps=1, **given) == 0
    assert "selection_runtime" not in results(tmp_path / "out")


def test_weights_of_another_architecture_are_refused(photographs, tmp_path, capsys):
    other = weights_file(tmp_path / "other.safetensors", backbone="test_efficientnet")
    assert train(photographs, tmp_path / "out", backbone=BACKBONE, pretrained_weights=other) == 2
    line = error_line(capsys)
    assert f"--pretrained_weights {other}: expected the " in line and "--backbone" in line


# The published model -------------------------------------------------------------------------------------------------

CROPPED = {"backbone": BACKBONE, "image_size": 64, "crop_pct": 0.875, "interpolation": "bicubic"}
PUBLISHED = {
    "timm": ("lff", CROPPED),
    "timm, squashed": ("lff", {**CROPPED, "resize_mode": "squash"}),
    "modeling file": ("disent", CROPPED),
    "mlp": ("lff", {"image_size": 24, "resize_mode": "crop", "crop_pct": 0.8}),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_model_says_of_photographs_what_the_trained_one_says(kind, file, photographs, tmp_path):
    method, changes = PUBLISHED[kind]
    pretrained = {} if kind == "mlp" else {"pretrained_weights": file}
    given = words(photographs, tmp_path / "out", method, **changes, **pretrained)
    assert run_command("train", given) == 0
    data_args, model_args, *_ = parse_run(given)
    expected = trained_logits(tmp_path / "out", given, ["ant", "owl"])
    assert expected.std(dim=0).min() > 1e-3  # not the same for all photographs

    model, transform, geometry = load_classifier(str(tmp_path / "out"))
    assert geometry == image_geometry(with_preprocessing(model_args))
    test = load_image_splits(data_args, geometry)["test"]
    assert (predict_logits(model, test, transform, 5) - expected).abs().max() < 1e-5

    classify = pipeline("image-classification", model=model, image_processor=str(tmp_path / "out"))
    images = [record["path"] for record in test.images["image"]]
    assert len({tuple(size) for size in SHAPES}) > 5
    for image, logits in zip(images, expected, strict=True):
        said = {entry["label"]: entry["score"] for entry in classify(image, function_to_apply="none")}
        assert said == pytest.approx({"ant": logits[0].item(), "owl": logits[1].item()}, abs=1e-4)

    in_config = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert in_config["crop_mode"] == {"crop": "center", "squash": "squash"}[geometry.resize_mode]
    if kind.startswith("timm"):
        network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
        show = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
        batch = torch.stack([show(Image.open(image).convert("RGB")) for image in images])
        with torch.inference_mode():
            assert (network(batch) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["crop", "squash"])
def test_commands_measure_a_cropping_model_as_training_did(mode, file, photographs, tmp_path, capsys):
    out = tmp_path / "out"
    changes = {**CROPPED, "resize_mode": mode, "pretrained_weights": file, "max_steps": 6}
    assert train(photographs, out, **changes) == 0
    asked = ["--model", str(out), "--dataset_name", str(photographs), "--output_file", str(tmp_path / "m.json")]
    assert run_command("test", asked) == 0
    measured = json.loads((tmp_path / "m.json").read_text())
    assert measured["test_accuracy"] == results(out)["test_accuracy"]
    assert (
        run_command(
            "predict", ["--model", str(out), str(photographs / "test"), "--output_file", str(tmp_path / "p.jsonl")]
        )
        == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    model, transform, geometry = load_classifier(str(out))
    test = load_image_splits(DataArguments(dataset_name=str(photographs)), geometry)["test"]
    probabilities = predict_logits(model, test, transform, 7).softmax(dim=-1).amax(dim=-1).tolist()
    expected = dict(zip((record["path"] for record in test.images["image"]), probabilities, strict=True))
    assert {row["file"]: row["probability"] for row in rows} == pytest.approx(expected, abs=1e-5)


def vit(folder, processor) -> None:
    """A published model of somebody else: a tiny vision transformer with this processor."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(folder)
    processor.save_pretrained(folder)


SQUARE, LARGER = {"height": 32, "width": 32}, {"height": 40, "width": 40}
NORMALISATION = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3}
OFFSET = {"rescale_offset": True, "rescale_factor": 1 / 127.5}


@pytest.mark.parametrize(
    "processor, stored, resize_mode, interpolation",
    [
        (ViTImageProcessor(size=SQUARE, **NORMALISATION), 32, "squash", "bilinear"),
        (ViTImageProcessor(size=SQUARE, resample=3, **NORMALISATION), 32, "squash", "bicubic"),
        (CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE, **NORMALISATION), 40, "crop", "bicubic"),
        (CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE, **NORMALISATION), 32, "crop", "bicubic"),
        (ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8, **NORMALISATION), 40, "crop", "bicubic"),
        (
            EfficientNetImageProcessor(size=SQUARE, include_top=False, **OFFSET, **NORMALISATION),
            32,
            "squash",
            "bicubic",
        ),
        (
            DeiTImageProcessor(size=LARGER, crop_size=SQUARE, **NORMALISATION),
            40,
            "squash",
            "bicubic",
        ),
    ],
)
def test_model_of_somebody_else_is_shown_images_by_its_own_processor(
    processor, stored, resize_mode, interpolation, tmp_path
):
    vit(tmp_path, processor)
    model, transform, geometry = load_classifier(str(tmp_path))
    assert (geometry.image_size, geometry.stored_size) == (32, stored)
    assert (geometry.resize_mode, geometry.interpolation) == (resize_mode, interpolation)
    image = photograph(90, 72)
    pixels = torch.from_numpy(np.array(geometry.resized(image))).permute(2, 0, 1)[None]
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]
    assert (transform(pixels, training=False) - theirs).abs().max() < 3 / 255 / 0.2  # they may resize tensors


@pytest.mark.parametrize(
    "processor",
    [ViTImageProcessor(size={"shortest_edge": 32}), ViTImageProcessor(size={"height": 32, "width": 40})],
)
def test_model_for_oblong_images_is_refused(processor, tmp_path):
    vit(tmp_path, processor)
    with pytest.raises(BiasEnsembleError, match="expected square images .* found another image_size; "):
        load_classifier(str(tmp_path))


def test_timm_model_that_pads_images_is_refused(tmp_path):
    model = timm.create_model(BACKBONE, num_classes=2)
    cfg = {"input_size": [3, 32, 32], "crop_mode": "border", "mean": [0.5] * 3, "std": [0.5] * 3}
    config = TimmWrapperConfig(architecture=BACKBONE, model_args={}, num_labels=2, pretrained_cfg=cfg)
    wrapped = TimmWrapperForImageClassification(config)
    wrapped.save_pretrained(tmp_path, state_dict=model.state_dict())
    with pytest.raises(BiasEnsembleError, match="found another resize_mode; use transformers or timm"):
        load_classifier(str(tmp_path))
