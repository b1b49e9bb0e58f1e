"""Image classifiers of transformers as networks: trained, repaired, and published as what they came as."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fresh_python import WITHOUT_LIBRARY, fresh_python
from runs import ALL_METHODS, distance, error_line, largest_log_difference, launch, slow_but, train, words
from safetensors.torch import load_file, save_file
from synthetic import CLASS_NAMES
from tiny import TINY, saved_classifier
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BertConfig,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.prepare import image_geometry, image_transform, load_image_splits
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.backbones import is_checkpoint
from hf_biasensemble.models.build import build_classifiers, check_backbone
from hf_biasensemble.models.early_layers import EarlyAndFinal
from hf_biasensemble.models.fine_tuning import layers_of
from hf_biasensemble.models.inputs import Inputs
from hf_biasensemble.models.preprocessing import preprocessing_of, with_preprocessing
from hf_biasensemble.runs.run_arguments import parse_run

TIMM = """test_resnet test_vit test_efficientnet test_convnext regnetx_002 mobilenetv3_small_050 resnetv2_18
ghostnet_050 edgenext_xx_small pit_ti_224""".split()
SIZES = {"test_vit": 160, "pit_ti_224": 224}
"""Of those that do not take 32 pixels."""
REOPEN = """
import json
import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    images = torch.from_numpy(np.load(f"{folder}/images.npy"))
    with torch.inference_mode():
        np.save(f"{folder}/logits.npy", model(images).logits.numpy())
    picture = (np.random.default_rng(0).random((60, 70, 3)) * 255).astype(np.uint8)
    seen = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"]
    assert seen.shape[2:] == images.shape[2:], seen.shape
    assert [model.config.id2label[number] for number in range(4)] == json.loads(open(f"{folder}/names.json").read())
"""


def trained_classifier(folder: Path, given: list[str]) -> tuple[torch.nn.Module, torch.Tensor]:
    """The debiased network of a finished LfF run by its last checkpoint, and test images as it sees them."""
    data_args, model_args, _, args = parse_run(given)
    model_args = with_preprocessing(model_args)
    splits = load_image_splits(data_args, image_geometry(model_args))
    inputs = Inputs.of_run(model_args, data_args, args, splits)
    network = ALL_METHODS["lff"].network(inputs.network_args, CLASS_NAMES, args.seed)
    network.load_state_dict(load_file(folder / "checkpoint-12" / "model.safetensors"))
    images = image_transform(model_args)(splits["test"].pixels, training=False)
    return inputs.classifier_of_images(network.debiased).eval(), images


def check_published(folders: dict[Path, list[str]]) -> None:
    """Each is opened in an interpreter without the library, with its labels, processor and the logits of training."""
    expected = {}
    for folder, given in folders.items():
        model, images = trained_classifier(folder, given)
        with torch.inference_mode():
            expected[folder] = model(images).logits.numpy()
        np.save(folder / "images.npy", images.numpy())
        (folder / "names.json").write_text(json.dumps(CLASS_NAMES))
    done = fresh_python("-c", WITHOUT_LIBRARY + REOPEN, *folders, cwd=next(iter(folders)).parent, isolated=True)
    assert done.returncode == 0, done.stderr
    for folder, logits in expected.items():
        found = np.load(folder / "logits.npy")
        assert logits.std() > 1e-3
        assert np.abs(found - logits).max() < 1e-5 * max(1, np.abs(logits).max()), folder


def frozen_and_tuned(backbone: Path, digits: Path, folder: Path) -> dict[Path, list[str]]:
    """Trains both ways from this classifier; gives the folders of the runs, with what each was given."""
    folders = {}
    for way, given in {
        "frozen": {"init_from": backbone, "freeze_backbone": "true", "feature_views": 0},
        "tuned": {"backbone": backbone, "pretrained": "true"},
    }.items():
        assert train(digits, folder / way, "lff", **given) == 0
        folders[folder / way] = words(digits, folder / way, "lff", **given)
    return folders


# What is published ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", slow_but(TINY, "vit"))
def test_network_of_transformers_is_published_as_what_it_came_as(kind, digits, tmp_path):
    backbone = saved_classifier(kind, tmp_path / "came", CLASS_NAMES)
    folders = frozen_and_tuned(backbone, digits, tmp_path)
    for folder in folders:
        published = json.loads((folder / "config.json").read_text())
        assert published["architectures"] == json.loads((backbone / "config.json").read_text())["architectures"]
        assert "auto_map" not in published and not (folder / "modeling_debiased.py").exists()
    check_published(folders)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_wrapper_stays_one(name, digits, tmp_path):
    size = SIZES.get(name, 32)
    torch.manual_seed(0)
    backbone = wrapped(name, size, tmp_path / "came")
    folders = frozen_and_tuned(backbone, digits, tmp_path)
    for folder in folders:
        published = json.loads((folder / "config.json").read_text())
        assert (published["model_type"], published["architecture"]) == ("timm_wrapper", name)
        assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 4
    check_published(folders)


def wrapped(name: str, size: int, folder: Path, class_names: list[str] = CLASS_NAMES) -> Path:
    """A timm classifier with random weights as transformers saves it."""
    network = timm.create_model(name, num_classes=len(class_names))
    cfg = {"input_size": [3, size, size], "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}
    cfg |= {"mean": [0.5] * 3, "std": [0.5] * 3, "classifier": network.pretrained_cfg["classifier"]}
    labels = dict(enumerate(class_names))
    config = TimmWrapperConfig(architecture=name, model_args={}, pretrained_cfg=cfg, id2label=labels)
    model = TimmWrapperForImageClassification(config)
    model.timm_model.load_state_dict(network.state_dict())
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_two_processes_give_the_run_of_one(kind, digits, tmp_path):
    backbone = saved_classifier(kind, tmp_path / "came", CLASS_NAMES)
    given = {"backbone": backbone, "pretrained": "true", "adam_epsilon": 1e-4, "logging_steps": 1}
    assert train(digits, tmp_path / "one", "lff", **given, per_device_train_batch_size=16) == 0
    done = launch(2, *words(digits, tmp_path / "two", "lff", **given, per_device_train_batch_size=8))
    assert done.returncode == 0, done.stderr[-3000:]
    assert distance(tmp_path / "one/model.safetensors", tmp_path / "two/model.safetensors") < 1e-5
    assert largest_log_difference(tmp_path / "one", tmp_path / "two") < 1e-5


def test_processor_is_the_one_that_came_unless_images_are_prepared_otherwise(vit, digits, tmp_path):
    came = AutoImageProcessor.from_pretrained(vit)
    assert train(digits, tmp_path / "same", backbone=vit, pretrained="true", max_steps=1) == 0
    assert AutoImageProcessor.from_pretrained(tmp_path / "same").to_dict() == came.to_dict()
    found = {}
    for way, changed in (("mean", {"image_mean": ["0.1", "0.2", "0.3"]}), ("size", {"crop_pct": 0.8})):
        assert train(digits, tmp_path / way, backbone=vit, pretrained="true", max_steps=1, **changed) == 0
        found[way] = preprocessing_of(AutoImageProcessor.from_pretrained(tmp_path / way))
        assert (found[way]["image_std"], found[way]["image_size"]) == ([*came.image_std], 32)
    assert found["mean"]["image_mean"] == pytest.approx([0.1, 0.2, 0.3]) and found["mean"]["crop_pct"] == 1
    assert found["size"]["image_mean"] == [*came.image_mean] and int(32 / found["size"]["crop_pct"]) == 40


@pytest.mark.parametrize("kind", ["dinov2", "siglip"])
def test_backbone_without_a_head_gets_one(kind, tmp_path):
    folder = saved_classifier(kind, tmp_path / "whole")
    model = AutoModelForImageClassification.from_pretrained(folder)
    head = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier.")}
    save_file(head, folder / "model.safetensors", {"format": "pt"})
    model_args = with_preprocessing(ModelArguments(backbone=str(folder), pretrained=True))
    encoder = build_classifiers(model_args, ["a", "b"], [0])[0].encoder
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, head[name])


def test_architecture_alone_starts_from_the_seed(vit):
    arguments = ModelArguments(backbone=str(vit), image_size=32)
    one, same, other = (model.state_dict() for model in build_classifiers(arguments, ["a", "b"], (0, 0, 1)))
    name = "encoder.network.vit.layers.0.attention.q_proj.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


@pytest.mark.slow
def test_disent_of_transformers_is_published_with_its_code(vit, digits, tmp_path):
    given = {"backbone": vit, "pretrained": "true", "max_steps": 2, "swap_start_step": 1}
    assert train(digits, tmp_path / "out", "disent", **given) == 0
    code = "from transformers import AutoModelForImageClassification as Model\n"
    code += "print(Model.from_pretrained(sys.argv[1], trust_remote_code=True).config.num_encoders)"
    script = f"{WITHOUT_LIBRARY}\n{code}"
    done = fresh_python("-c", script, tmp_path / "out", cwd=tmp_path, isolated=True)
    assert done.stdout.split()[-1:] == ["2"], done.stderr
    assert "secret place" not in (tmp_path / "out" / "config.json").read_text()


# Early layers and fine-tuning ----------------------------------------------------------------------------------------


def test_early_features_are_statistics_of_hidden_states(vit):
    model_args = with_preprocessing(ModelArguments(backbone=str(vit), pretrained=True))
    encoder = build_classifiers(model_args, ["a"], [0])[0].encoder.eval()
    images = torch.randn(2, 3, 32, 32)
    model = AutoModelForImageClassification.from_pretrained(vit).eval()
    with torch.inference_mode():
        found = EarlyAndFinal(encoder, 32)(images)
        states = model.vit(images, output_hidden_states=True).hidden_states
        expected = [model.vit(images).last_hidden_state[:, 0]]
        for state in states[1:3]:  # of three layers
            expected += [state.mean(1), state.std(1, correction=0).log1p()]
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, stages", [("vit", 3), ("convnext", 4), ("resnet", 4)])
def test_layers_are_stem_blocks_or_stages_and_what_follows(kind, stages, tmp_path):
    folder = saved_classifier(kind, tmp_path / "came")
    arguments = ModelArguments(backbone=str(folder), pretrained=True, train_layers=2)
    encoder = build_classifiers(with_preprocessing(arguments), ["a", "b"], [0])[0].encoder
    layers = layers_of(encoder)
    assert len(layers) == stages + (1 if kind == "resnet" else 2)
    assert sum(layers, []) == [name for name, _ in encoder.named_parameters()]
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {*layers[-2], *layers[-1]}


# Mistakes ------------------------------------------------------------------------------------------------------------


def test_what_is_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "resnet18").mkdir()
    names = ["google/vit-base-patch16-224", "mine", str(tmp_path / "mine"), "./resnet18"]
    others = ["mlp", "resnet18", "hf-hub:timm/resnet18", "local-dir:/a/b", "nowhere", "resnet18.a1_in1k"]
    assert [name for name in (*names, *others) if is_checkpoint(name)] == names


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"backbone": "someone/nothing", "pretrained": "true"}, "--backbone someone/nothing: expected mlp, the name"),
        ({"backbone": "BERT"}, "expected an architecture with an image classifier in transformers, found bert"),
        ({"backbone": "TWO"}, "expected an image classifier with one last layer, found SwiftFormer"),
        ({"backbone": "VIT", "backbone_args": '{"depth": 2}'}, "expected options of the configuration of"),
        (
            {"backbone": "VIT", "pretrained": "true", "backbone_args": '{"image_size": 48}'},
            "found 1 missing or of another shape (vit.embeddings.position_embeddings); use another checkpoint",
        ),
        (
            {"backbone": "TIMM", "pretrained": "true", "backbone_args": '{"img_size": 64}', "image_size": 64},
            " of another shape (pos_embed (1, ",
        ),
        ({"backbone": "VIT", "image_size": 48}, "--backbone_args '{\"image_size\": 48}'"),
        ({"backbone": "VIT", "pretrained_weights": "VIT/model.safetensors"}, "expected a timm backbone, found one of"),
        ({"backbone": "PART", "pretrained": "true"}, "expected all weights of the network, found 1 missing"),
        ({"init_from": "PART", "freeze_backbone": "true"}, "expected all weights of the network, found 1 missing"),
        ({"init_from": "VIT", "backbone": "test_resnet"}, "use the --backbone of that model"),
        ({"init_from": "nowhere"}, "--init_from nowhere: expected a folder or Hub id"),
        ({"backbone": "FLIPS", "pretrained": "true"}, "expected pretrained weights for square images"),
        ({"backbone": "ODD", "pretrained": "true"}, "odd: 'float' object is not iterable"),
        ({"init_from": "VIT", "freeze_backbone": "true", "backbone": "resnet18"}, "--backbone: expected nothing with"),
    ],
)
def test_mistake_is_one_line_before_training(changes, message, vit, digits, tmp_path, capsys):
    BertConfig(hidden_size=16, num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    two = SwiftFormerConfig(depths=[1, 1, 1, 1], embed_dims=[8, 8, 8, 8], image_size=32)
    SwiftFormerForImageClassification(two).save_pretrained(tmp_path / "two")
    part, flips, odd = (shutil.copytree(vit, tmp_path / name) for name in ("part", "flips", "odd"))
    found = load_file(part / "model.safetensors")
    save_file(
        {name: found[name] for name in sorted(found) if "layernorm.bias" not in name}, part / "model.safetensors"
    )
    settings = {
        "do_flip_channel_order": True,
        "image_processor_type": "MobileViTImageProcessor",
        "do_normalize": False,
    }
    settings |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    (flips / "preprocessor_config.json").write_text(json.dumps(settings))
    settings = {"image_processor_type": "ViTImageProcessor", "image_mean": 0.5, "image_std": 0.5}
    (odd / "preprocessor_config.json").write_text(json.dumps(settings))
    places = {"TIMM": wrapped("test_vit", 160, tmp_path / "timm")} if "TIMM" in changes.values() else {}
    places |= {
        "BERT": tmp_path / "bert",
        "TWO": tmp_path / "two",
        "VIT": vit,
        "PART": part,
        "FLIPS": flips,
        "ODD": odd,
    }
    given = {}
    for name, value in changes.items():
        for word, place in places.items():
            value = str(value).replace(word, str(place))
        given[name] = value
    assert train(digits, tmp_path / "out", **({"image_size": 32, **given} if name_of(changes) else given)) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "out").exists()


def name_of(changes: dict[str, object]) -> bool:
    """Whether the network starts from scratch, and brings no size."""
    return not {"pretrained", "pretrained_weights", "freeze_backbone"} & changes.keys()


def test_features_must_be_pooled(tmp_path):
    folder = saved_classifier("vit", tmp_path / "vit")
    check_backbone(with_preprocessing(ModelArguments(backbone=str(folder), pretrained=True)), 1)
    with pytest.raises(BiasEnsembleError, match="expected at most 5, as many as the backbone has, found 6"):
        check_backbone(with_preprocessing(ModelArguments(backbone=str(folder), pretrained=True, train_layers=6)), 1)
