"""A frozen backbone: features are stored once and never served old, heads are trained on them, both are published."""

import json
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from runs import METHODS, distance, error_line, launch, results, slow_but, train, weights, words
from safetensors.torch import save_file
from synthetic import coloured_digits
from transformers import AutoModelForImageClassification, pipeline

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.store.array_store import StoredArray
from hf_biasensemble.data.store.cache import cache_folder, lock_of
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.models import frozen as frozen_models
from hf_biasensemble.models.early_layers import EarlyAndFinal
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.models.frozen import FrozenBackbone

BACKBONE = "test_resnet"
AUGMENTING = ImageTransform((0.5,) * 3, (0.25,) * 3, augmentation="photographs", image_size=32)


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """Random weights of a tiny network, in a file."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(timm.create_model(BACKBONE, num_classes=0).state_dict(), file)
    return file


@pytest.fixture
def frozen(backbone_file):
    """Options of a frozen run."""
    network = {"backbone": BACKBONE, "pretrained_weights": backbone_file, "image_size": 32}
    return {**network, "freeze_backbone": "true", "feature_views": 2, "augmentation": "photographs"}


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A cache of the test's own, and images."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (150, 3, 36, 36), generator=generator, dtype=torch.uint8)


def encoder_of(seed: int = 0) -> EarlyAndFinal:
    torch.manual_seed(seed)
    return EarlyAndFinal(timm.create_model(BACKBONE, num_classes=0), 32)


def feature_folder() -> Path:
    return cache_folder() / "features"


def frozen_backbone(encoder, transform=AUGMENTING, views=2, backbone=BACKBONE, **options) -> FrozenBackbone:
    model_args = ModelArguments(backbone=backbone, image_size=32, crop_pct=0.9, feature_views=views, **options)
    return FrozenBackbone(model_args, transform, encoder)


def encode(pixels, encoder, transform=AUGMENTING, views=2, seed=0) -> torch.Tensor:
    made = frozen_backbone(encoder, transform, views).features_of(pixels, True, seed, torch.device("cpu"))
    return made[torch.arange(len(pixels))]


# The store -----------------------------------------------------------------------------------------------------------


def test_first_view_is_that_of_evaluation_and_the_others_are_not(store):
    encoder = encoder_of()
    values = encode(store, encoder)
    with torch.inference_mode():
        plain = encoder(AUGMENTING(store, training=False))
    assert values.shape == (150, 3, encoder.width + encoder.early_width) and values.dtype == torch.float16
    torch.testing.assert_close(values[:, 0].float(), plain, rtol=1e-3, atol=1e-3)
    assert all((values[:, 0] != values[:, view]).any(dim=1).float().mean() > 0.9 for view in (1, 2))
    assert (values[:, 1] != values[:, 2]).any(dim=1).float().mean() > 0.9


def test_features_are_encoded_once_and_never_served_for_anything_else(store):
    encoder = encoder_of()
    encode(store, encoder)
    (file,) = feature_folder().glob("*.npy")
    written = file.stat().st_mtime_ns
    encode(store, encoder)
    assert [path.stat().st_mtime_ns for path in feature_folder().glob("*.npy")] == [written]
    changed = store.clone()
    changed[149, 0, 0, 0] ^= 1
    other_crop = ImageTransform((0.5,) * 3, (0.25,) * 3, augmentation="photographs", image_size=30)
    jittered = replace(AUGMENTING, color_jitter=0.4)
    for pixels, backbone, seed in [
        (changed, frozen_backbone(encoder), 0),
        (store, frozen_backbone(encoder_of(1)), 0),
        (store, frozen_backbone(encoder, backbone="another"), 0),
        (store, frozen_backbone(encoder, replace(AUGMENTING, image_mean=(0.4, 0.5, 0.5))), 0),
        (store, frozen_backbone(encoder, other_crop), 0),
        (store, frozen_backbone(encoder, jittered), 0),
        (store, frozen_backbone(encoder, views=3), 0),
        (store, frozen_backbone(encoder, interpolation="bicubic"), 0),
        (store, frozen_backbone(encoder), 1),
    ]:
        there = set(feature_folder().glob("*.npy"))
        backbone.features_of(pixels, True, seed, torch.device("cpu"))
        assert len(set(feature_folder().glob("*.npy")) - there) == 1


def test_features_larger_than_memory_open(store):
    """A sparse file of 200 GB: a map that could be written to would be refused."""
    encoder = encoder_of()
    encode(store, encoder)
    (file,) = feature_folder().glob("*.npy")
    shape = (150, 2_000_000, encoder.width + encoder.early_width)
    with open(file, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f2", "fortran_order": False, "shape": shape})
        stream.truncate(stream.tell() + 2 * int(np.prod(shape)))
    values = StoredArray(file, "")
    assert values.shape == shape and values[torch.tensor([0])].shape == (1, *shape[1:])


def test_the_cache_command_clears_features_but_not_those_that_are_being_encoded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    whole, begun = feature_folder() / "whole.npy", feature_folder() / "begun.unfinished"
    feature_folder().mkdir(parents=True)
    for file in (whole, begun):
        file.write_bytes(bytes(1_000_000))
    assert run_command("cache", []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["features", "1.0"], ["unfinished", "1.0"]]
    with lock_of(begun):
        assert run_command("cache", ["--clear"]) == 0
    assert not whole.exists() and begun.exists()
    assert run_command("cache", ["--clear"]) == 0
    assert {file.suffix for file in feature_folder().iterdir()} == {".lock"}


@pytest.mark.parametrize("damage", ["cut", "other shape", "no array"])
def test_a_damaged_store_is_made_again(store, damage):
    encoder = encoder_of()
    before = encode(store, encoder).clone()
    (file,) = feature_folder().glob("*.npy")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other shape":
        np.save(file, np.zeros((2, 3), dtype=np.float16))
    else:
        file.write_text("nothing")
    assert torch.equal(encode(store, encoder), before)


def test_encoding_that_was_killed_is_taken_up(store, monkeypatch):
    encoder = encoder_of()
    whole = encode(store, encoder).clone()
    (file,) = feature_folder().glob("*.npy")
    file.unlink()
    blocks: list[int] = []

    def killed_at(count):
        def hook(module, inputs):
            blocks.append(len(inputs[0]))
            if len(blocks) > count:
                raise KeyboardInterrupt

        return hook

    handle = encoder.register_forward_pre_hook(killed_at(4))
    with pytest.raises(KeyboardInterrupt):
        encode(store, encoder)  # in the second block: 3 views of the first, one of the second
    handle.remove()
    assert not file.exists()
    blocks.clear()
    handle = encoder.register_forward_pre_hook(killed_at(100))
    assert torch.equal(encode(store, encoder), whole)
    assert blocks == [64] * 3 + [22] * 3  # 150 images, 64 of which were there
    handle.remove()


def test_full_disk_is_one_line_and_leaves_nothing_behind(store):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes that a file may have
    try:
        with pytest.raises(BiasEnsembleError, match="features of .* could not be written .* set HF_DATASETS_CACHE"):
            encode(store, encoder_of())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert {file.suffix for file in feature_folder().iterdir()} == {".lock"}
    assert len(encode(store, encoder_of())) == 150


@pytest.mark.parametrize("factor", [float("nan"), 1e9])
def test_features_that_are_not_finite_are_one_line_and_leave_nothing_behind(store, factor):
    encoder = encoder_of()
    with torch.no_grad():
        for parameter in encoder.backbone.parameters():
            parameter.fill_(factor)
    with pytest.raises(BiasEnsembleError, match="test_resnet: expected finite features below 65,504"):
        encode(store, encoder)
    assert not [file for file in feature_folder().iterdir() if file.suffix != ".lock"]


def test_large_images_go_through_a_processor_a_few_at_a_time(store, monkeypatch):
    encoder = encoder_of()
    whole = encode(store, encoder).clone()
    (file,) = feature_folder().glob("*.npy")
    file.unlink()
    monkeypatch.setattr(frozen_models, "VALUES_AT_ONCE", 20 * 3 * 32 * 32 + 5)
    together: list[int] = []
    encoder.register_forward_pre_hook(lambda module, inputs: together.append(len(inputs[0])))
    found = encode(store, encoder)  # the same random views, and float32 rounds a little differently
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-3)
    assert together == [20, 20, 20, 4] * 6 + [20, 2] * 3


def test_a_random_view_of_each_image_comes_while_training_and_the_first_in_evaluation():
    features = torch.arange(4.0).view(1, 4, 1).expand(4000, 4, 5).half()
    transform = FeatureTransform(torch.full((5,), 1.0), torch.full((5,), 2.0))
    shares = torch.bincount(transform.augment(features)[:, 0].long(), minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.04)
    assert torch.equal(transform(features, training=False), torch.full((4000, 5), -0.5))
    members = transform.augment(features.view(1000, 4, 4, 5))  # a batch for each of four members
    assert members.shape == (1000, 4, 5) and (members[:, 0] != members[:, 1]).any()


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", slow_but(METHODS, "lff_be", "group_dro_be"))
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_what_is_published_takes_images(digits, frozen, tmp_path, method, head, capsys):
    own = {"head": head, "head_hidden": 24}
    no_head = {"disent": "linear", "disent_be": "linear", "last_layer_be": "mlp"}
    status = train(digits, tmp_path / "out", method, **frozen, **own)
    if no_head.get(method) == head:
        assert status == 2 and "--head: expected" in error_line(capsys)
        return
    assert status == 0
    model, transform, geometry = load_classifier(str(tmp_path / "out"))
    found = results(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"] == "timm_wrapper") == (head == "linear" and not method.startswith("disent"))
    from datasets import load_dataset

    images = load_dataset(str(digits), split="test")
    pixels = np.stack([np.asarray(geometry.resized(image.convert("RGB"))) for image in images["image"]])
    with torch.inference_mode():
        logits = model(transform(torch.from_numpy(pixels).permute(0, 3, 1, 2), training=False)).logits
    accuracy = (logits.argmax(-1) == torch.tensor(images["label"])).float().mean().item()
    assert accuracy == pytest.approx(found["test_accuracy"], abs=1 / 64 + 1e-6)  # features were rounded to float16
    opened = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    classify = pipeline("image-classification", model=str(tmp_path / "out"), top_k=4)
    for image, expected in zip(images["image"].__getitem__(slice(0, 4)), logits.softmax(-1), strict=False):
        scores = {row["label"]: row["score"] for row in classify(image)}
        assert [scores[opened.config.id2label[k]] for k in range(4)] == pytest.approx(expected.tolist(), abs=1e-4)


def test_head_and_backbone_agree_with_the_head_on_features(digits, frozen, tmp_path):
    """The standardisation inside the published head is exact, up to float32."""
    from hf_biasensemble.data.prepare import image_geometry, image_transform, load_image_splits
    from hf_biasensemble.data.store.features import Features
    from hf_biasensemble.models.build import build_classifiers
    from hf_biasensemble.models.inputs import Inputs
    from hf_biasensemble.models.preprocessing import with_preprocessing
    from hf_biasensemble.runs.run_arguments import parse_run

    for head in ("linear", "mlp"):
        data_args, model_args, _, args = parse_run(words(digits, tmp_path, "erm", **frozen, head=head))
        model_args = with_preprocessing(model_args)
        splits = load_image_splits(data_args, image_geometry(model_args))
        transform = image_transform(model_args, "photographs")
        inputs = Inputs.of_run(model_args, data_args, args, splits)
        heads, encoded = inputs.network_args, inputs.splits
        assert encoded["train"].fingerprint == splits["train"].fingerprint
        features = encoded["test"].pixels
        assert isinstance(features, Features) and features.shape[1] == 1 and encoded["train"].pixels.shape[1] == 3
        on_features = ALL_METHODS["erm"].network(heads, splits["train"].class_names, 5).eval()
        whole = inputs.classifier_of_images(on_features)
        plain = build_classifiers(model_args, splits["train"].class_names, [0])[0].eval()
        with torch.inference_mode():
            images = transform(splits["test"].pixels, training=False)
            in_float32 = features.transform().normalise(plain.encoder(images))
            expected = on_features(in_float32).logits
            torch.testing.assert_close(whole(images).logits, expected, atol=1e-4, rtol=0)
            rounded = on_features(features.transform()(features.values, training=False)).logits
        assert 0 < (rounded - expected).abs().max() < 0.05


def test_resumed_run_is_bitwise_the_undisturbed_one(digits, frozen, tmp_path):
    assert train(digits, tmp_path / "whole", "lff_be", **frozen) == 0
    assert train(digits, tmp_path / "cut", "lff_be", **frozen) == 0
    for path in (tmp_path / "cut").iterdir():
        if path.name not in ("config.yaml", "selection", "checkpoint-5") and path.is_file():
            path.unlink()
    import shutil

    for name in ("checkpoint-10", "checkpoint-12"):
        shutil.rmtree(tmp_path / "cut" / name)
    assert train(digits, tmp_path / "cut", "lff_be", **frozen, resume_from_checkpoint="true") == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_bias_labels_change_nothing(digits, frozen, tmp_path):
    other = coloured_digits(tmp_path / "data", shuffled_bias=True)
    assert train(digits, tmp_path / "one", "group_dro_be", **frozen) == 0
    assert train(other, tmp_path / "other", "group_dro_be", **frozen) == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "other")


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(digits, frozen, tmp_path):
    settings = {**frozen, "adam_epsilon": 1e-4, "member_threshold": 0.3}
    assert train(digits, tmp_path / "one", "lff_be", **settings) == 0
    halved = {**settings, "per_device_train_batch_size": 8}
    started = launch(2, *words(digits, tmp_path / "two", "lff_be", **halved))
    assert started.returncode == 0, started.stderr[-2000:]
    one, two = (tmp_path / name / "checkpoint-12" / "model.safetensors" for name in ("one", "two"))
    assert distance(one, two) < 1e-5


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"backbone": "mlp", "pretrained_weights": ""}, "--pretrained_weights: expected a timm backbone"),
        ({"pretrained_weights": None}, "--freeze_backbone: expected a pretrained backbone"),
        ({"backbone": "mlp", "pretrained_weights": None}, "found nothing to freeze: the MLP"),
        ({"backbone": "test_efficientnet"}, "expected the .* weights of test_efficientnet, found .* missing"),
        ({"feature_views": -1}, "--feature_views: expected 0 or more"),
        ({"head": "deep"}, "--head: expected one of linear, mlp"),
        ({"train_layers": 1}, "--train_layers: expected nothing with --freeze_backbone"),
        ({"freeze_backbone": "false", "head": "mlp"}, "--head: expected linear without --freeze_backbone"),
    ],
)
def test_settings_that_do_not_fit_are_refused(digits, frozen, tmp_path, capsys, changes, expected):
    given = {name: value for name, value in {**frozen, **changes}.items() if value is not None}
    assert train(digits, tmp_path / "out", "erm", **given) == 2
    assert re.search(expected, error_line(capsys))


def test_without_further_views_the_head_sees_the_plain_one(digits, frozen, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert train(digits, tmp_path / "none", "erm", **{**frozen, "feature_views": 0}) == 0
    shapes = {np.load(file).shape[:2] for file in feature_folder().glob("*.npy")}
    assert {views for _, views in shapes} == {1}
    assert train(digits, tmp_path / "plain", "erm", **{**frozen, "augmentation": "none"}) == 0
    assert weights(tmp_path / "none") == weights(tmp_path / "plain")


def test_images_smaller_than_the_crop_are_enlarged(backbone_file, frozen, tmp_path):
    folder = tmp_path / "small"
    for label, name in enumerate(("dark", "light")):
        for number in range(12):
            file = folder / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            shade = 40 + 150 * label + number
            Image.fromarray(np.full((5 + number, 9, 3), shade, dtype=np.uint8)).save(file)
    settings = {"per_device_train_batch_size": 4, "validation_share": 0, "test_share": 0.25}
    assert train(folder, tmp_path / "out", "erm", **{**frozen, **settings}) == 0
