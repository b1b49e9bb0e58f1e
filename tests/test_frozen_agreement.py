"""A frozen backbone with its head, fine-tuned networks and what others open of them say the same of photographs."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from photographs import BACKBONE, photograph_folder, weights_file
from PIL import Image
from runs import run_command, words
from safetensors.torch import load_file
from transformers import pipeline

from hf_biasensemble.data.prepare import image_geometry, image_transform, load_image_splits
from hf_biasensemble.data.store.features import Features
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.inputs import Inputs
from hf_biasensemble.models.preprocessing import with_preprocessing
from hf_biasensemble.runs.run_arguments import parse_run

CLASSES = ["ant", "owl"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return photograph_folder(tmp_path_factory.mktemp("photographs") / "photos")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    file = weights_file(tmp_path_factory.mktemp("weights") / "backbone.safetensors")
    return {"backbone": BACKBONE, "pretrained_weights": file, "image_size": 64, "per_device_train_batch_size": 8}


def encoded(given: list[str]) -> tuple:
    """Settings, transform, splits of images, network arguments on features, splits of features, backbone."""
    data_args, model_args, _, args = parse_run(given)
    model_args = with_preprocessing(model_args)
    splits = load_image_splits(data_args, image_geometry(model_args))
    inputs = Inputs.of_run(model_args, data_args, args, splits)
    heads, of_features = inputs.network_args, inputs.splits
    backbone = timm.create_model(BACKBONE, num_classes=0).eval()
    wanted = backbone.state_dict()
    weights = {name: value for name, value in load_file(str(model_args.pretrained_weights)).items() if name in wanted}
    backbone.load_state_dict(weights)
    return args, image_transform(model_args), splits, heads, of_features, backbone


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("method", ["erm", "lff"])
def test_pipeline_and_timm_say_what_the_trained_head_says(head, method, frozen, photographs, tmp_path):
    options = {"freeze_backbone": "true", "feature_views": 2, "augmentation": "photographs", "head": head}
    given = words(photographs, tmp_path / "out", method, **frozen, **options)
    assert run_command("train", given) == 0
    args, transform, splits, heads, of_features, backbone = encoded(given)
    network = METHODS[method].network(heads, CLASSES, args.seed)
    network.load_state_dict(load_file(tmp_path / "out" / "checkpoint-12" / "model.safetensors"))
    test, features = splits["test"], of_features["test"].pixels
    assert isinstance(features, Features)
    with torch.inference_mode():
        in_float32 = backbone(transform(test.pixels, training=False))
        expected = network.eval()(pixel_values=features.transform().normalise(in_float32))["logits"]
        as_evaluated = network(pixel_values=features.transform()(features.values, training=False))["logits"]
    assert expected.std(dim=0).min() > 1e-3  # not the same for all photographs
    assert (as_evaluated - expected).abs().max() < 0.02  # features were rounded to float16

    classify = pipeline("image-classification", model=str(tmp_path / "out"))
    paths = [record["path"] for record in test.images["image"]]
    for path, logits in zip(paths, expected.tolist(), strict=True):
        said = {entry["label"]: entry["score"] for entry in classify(path, function_to_apply="none")}
        assert said == pytest.approx(dict(zip(CLASSES, logits, strict=True)), abs=1e-4)
    if head == "linear":
        opened = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
        show = timm.data.create_transform(**timm.data.resolve_model_data_config(opened), is_training=False)
        batch = torch.stack([show(Image.open(path).convert("RGB")) for path in paths])
        with torch.inference_mode():
            assert (opened(batch) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["erm", "lff"])
def test_frozen_backbone_trains_as_one_of_which_nothing_is_trained(method, frozen, photographs, tmp_path):
    """On one fixed view, and with features as they are: neither rounded nor standardised."""
    given = words(photographs, tmp_path / "frozen", method, **frozen, freeze_backbone="true", learning_rate=0.01)
    args, transform, splits, heads, of_features, backbone = encoded(given)
    width = backbone.num_features
    with torch.inference_mode():
        for name, split in splits.items():
            values = backbone(transform(split.pixels, training=False))[:, None]
            features = Features(values, torch.zeros(width), torch.ones(width))
            of_features[name] = replace(of_features[name], pixels=features)

    given = words(photographs, tmp_path / "whole", method, **frozen, train_layers=0, learning_rate=0.01)
    _, model_args, _, whole_args = parse_run(given)
    whole = METHODS[method].network(with_preprocessing(model_args), CLASSES, args.seed)
    on_features = METHODS[method].network(heads, CLASSES, args.seed)
    ours, theirs = dict(on_features.named_parameters()), dict(whole.named_parameters())
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(theirs[name])
    before = {name: value.clone() for name, value in ours.items()}
    trainers = []
    for network, settings, shown, parts in (
        (on_features, args, of_features["train"].pixels.transform(), of_features),
        (whole, whole_args, transform, splits),
    ):
        trainer = METHODS[method].trainer(network, settings, shown, train_dataset=parts["train"], eval_dataset={})
        trainer.train()
        trainers.append(trainer)
    logits = [
        trainer.predict_logits(parts["test"]) for trainer, parts in zip(trainers, (of_features, splits), strict=True)
    ]
    assert (logits[0] - logits[1]).abs().max() < 1e-4
    assert np.ptp(logits[0].numpy()) > 1e-3
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=0)
        assert not torch.equal(value, before[name])
