"""Classifiers of transformers that are repaired: their backbone stays, their last layer is trained again."""

import json
import shutil

import pytest
import torch
import yaml
from runs import distance, results, train, words
from safetensors import safe_open
from synthetic import CLASS_NAMES
from tiny import saved_classifier
from transformers import AutoModelForImageClassification

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.prepare import image_geometry, image_transform, load_image_splits
from hf_biasensemble.judging.judge import judgement
from hf_biasensemble.judging.members import Members
from hf_biasensemble.models.preprocessing import with_preprocessing
from hf_biasensemble.runs.run_arguments import parse_run


def test_classifier_is_repaired_and_judged_against_what_it_was(vit, digits, tmp_path, monkeypatch, capsys):
    compared = []

    def recording(own, other, name):
        compared.append((other, name))
        return judgement(own, other, name)

    monkeypatch.setattr("hf_biasensemble.runs.run.judgement", recording)
    given = {"init_from": vit, "freeze_backbone": "true", "augmentation": "none", "cross_fit": "true"}
    given |= {"member_keep": 0.8, "learning_rate": 0.05}
    assert train(digits, tmp_path / "out", "lff_be", **given) == 0
    printed = capsys.readouterr().out
    found = results(tmp_path / "out")
    data_args = parse_run(words(digits, tmp_path / "out", "lff_be", **given))[0]
    model = AutoModelForImageClassification.from_pretrained(vit).eval()
    model_args = with_preprocessing(ModelArguments(backbone=str(vit), pretrained=True))
    test = load_image_splits(data_args, image_geometry(model_args))["test"]
    with torch.inference_mode():
        images = image_transform(model_args)(test.pixels, training=False)
        right = (model(images).logits.argmax(1) == test.labels).float()
    assert found["before"]["test_accuracy"] == pytest.approx(float(right.mean()))
    assert found["before"]["test_conflicting_accuracy"] == pytest.approx(
        float(right[torch.as_tensor(test.measured_by()["is_conflicting"])].mean())
    )
    assert found["test_accuracy"] != found["before"]["test_accuracy"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "before test" in printed and "test, the classifier before repair" in card
    ((other, name),) = compared
    before = found["before"]["validation_accuracy"]
    assert name == "the original classifier" and other.correct.mean() == pytest.approx(before)


def test_nothing_published_says_where_the_classifier_was(vit, digits, tmp_path):
    given = {"init_from": vit, "freeze_backbone": "true", "augmentation": "none", "cross_fit": "true"}
    assert train(digits, tmp_path / "out", "lff_be", **given, member_keep=0.8) == 0
    shutil.rmtree(vit)
    for name in ("config.json", "README.md", "preprocessor_config.json", "all_results.json"):
        assert "secret place" not in (tmp_path / "out" / name).read_text(), name
    with safe_open(tmp_path / "out" / "selection" / "members.safetensors", framework="pt") as stored:
        assert "secret place" not in str(stored.metadata())
    members = Members.load(tmp_path / "out")  # the classifier itself is gone
    assert members.backbone is not None and members.backbone.network.early_width > 0
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["backbone"] == str(vit)


@pytest.mark.parametrize(
    "reason, names, given",
    [
        ("expected a model of the classes", ["cat", "dog"], {}),
        ("it sees images of 32 pixels", CLASS_NAMES, {"image_size": 24}),
        ("found none that opens", CLASS_NAMES, {"image_size": 32, "image_mean": [0] * 3, "image_std": [1] * 3}),
    ],
    ids=["classes", "size", "no processor"],
)
def test_what_cannot_be_compared_is_said(reason, names, given, digits, tmp_path, monkeypatch, capsys):
    resnet = saved_classifier("resnet", tmp_path / "resnet", names)
    if "image_mean" in given:
        (resnet / "preprocessor_config.json").unlink()
    monkeypatch.setenv("HOME", str(tmp_path))
    given |= {"init_from": "~/resnet", "freeze_backbone": "true", "feature_views": 0, "max_steps": 2}
    assert train(digits, tmp_path / "out", "erm", **given) == 0
    assert "its accuracy before repair is left out; " in (out := capsys.readouterr().out) and reason in out
    assert "before" not in results(tmp_path / "out")


def test_classifier_to_start_from_is_the_backbone_unless_another_is_named(vit, digits, tmp_path):
    still = {"learning_rate": 1e-12, "max_steps": 1}
    assert train(digits, tmp_path / "named", backbone=vit, pretrained="true", init_from=vit, **still) == 0
    assert train(digits, tmp_path / "out", init_from=vit, **still) == 0
    assert distance(vit / "model.safetensors", tmp_path / "out" / "model.safetensors") < 1e-6
    for name in ("config.json", "preprocessor_config.json", "config.yaml"):
        named, out = ((tmp_path / folder / name).read_text() for folder in ("named", "out"))
        assert out.replace(str(tmp_path / "out"), str(tmp_path / "named")) == named


@pytest.mark.parametrize("method", ["erm", "disent"])
def test_classifier_with_code_of_this_library_is_repaired(method, digits, tmp_path):
    assert train(digits, tmp_path / "first", method, max_steps=2) == 0
    given = {"init_from": tmp_path / "first", "freeze_backbone": "true", "feature_views": 0}
    assert train(digits, tmp_path / "repaired", "lff", **given) == 0
    one, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "repaired"))
    assert {**one, "use_cache": None} == {**other, "use_cache": None}  # which a Trainer sets of a model by itself
    assert "before" in results(tmp_path / "repaired")
