"""`hf-biasensemble explain`: the right images, with attributions that add up to what each model says of them.

What changes with the images is in test_counterfactuals.py.
"""

import re
import shutil
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from runs import error_line, words
from synthetic import CLASS_NAMES, coloured_digits

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.evaluation.classifier import predict_logits
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.reporting.figures.panels import Explained, classes_in_turn, evidence_panel

pytest.importorskip("captum")
from hf_biasensemble.reporting.explain.evidence import integrated_gradients  # noqa: E402

RUNS: dict[str, tuple[str, dict]] = {
    "erm": ("erm", {"max_steps": 40}),
    "lff": ("lff", {"max_steps": 120}),
    "disent": ("disent", {}),
    "timm": ("erm", {"backbone": "test_resnet", "image_size": 32, "image_mean": "0.4 0.5 0.6"}),
}


@pytest.fixture(scope="module")
def models(digits, tmp_path_factory):
    """Folder with a folder for each of the runs; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    for name, (method, changes) in RUNS.items():
        lines = words(digits, folder / name, method, save_strategy="no", eval_strategy="no", **changes)
        assert run_command("train", [word for line in lines for word in line.split(" ")]) == 0
    return folder


def explain(*options: object, **named: object) -> int:
    words = [*map(str, options), *(word for name, value in named.items() for word in (f"--{name}", str(value)))]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        return run_command("explain", words)


def opened(folder, data, split="test"):
    model, transform, geometry = load_classifier(str(folder))
    return model, transform, load_image_splits(DataArguments(dataset_name=str(data)), geometry)[split]


def predictions(folder, data):
    model, transform, split = opened(folder, data)
    return predict_logits(model, split, transform, 64).argmax(dim=-1).numpy()


def texts(file) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", file.read_text())


@pytest.mark.parametrize("name", RUNS)
def test_attributions_add_up_to_what_the_image_adds_to_the_score(models, digits, name):
    model, transform, split = opened(models / name, digits)
    positions, targets = np.array([5, 2, 60]), np.array([3, 0, 1])
    found = integrated_gradients(model, transform, split, positions, targets)
    pixels = split.pixels[torch.from_numpy(positions)]
    assert found.shape == (3, *pixels.shape[2:])
    with torch.inference_mode():
        scores = model(pixel_values=transform(pixels, training=False)).logits
        black = model(pixel_values=transform(torch.zeros_like(pixels), training=False)).logits
    difference = (scores - black)[range(3), targets].numpy()
    assert found.sum(axis=(1, 2)) == pytest.approx(difference, abs=0.1 * float(np.abs(difference).max()))
    again = integrated_gradients(model, transform, split, positions, targets)
    assert np.array_equal(found, again)


def test_images_are_conflicting_ones_that_only_the_model_gets_right(models, digits, tmp_path, capsys):
    file = tmp_path / "evidence.svg"
    both = {"model": models / "lff", "compare_with": models / "erm", "dataset_name": digits}
    assert explain(**both, output_dir=tmp_path, format="svg", num_images=5) == 0
    assert f"wrote {file}" in capsys.readouterr().out
    measured = opened(models / "lff", digits)[2].measured_by()
    labels, conflicting = measured["labels"], measured["is_conflicting"]
    right, wrong = predictions(models / "lff", digits), predictions(models / "erm", digits)
    expected = conflicting & (right == labels) & (wrong != labels)
    assert 5 < expected.sum() < (right == labels).sum()
    written = texts(file)
    title = f"{expected.sum()} of {conflicting.sum()} bias-conflicting images: erm wrong and lff right"
    assert title in written and {"erm", "lff"} <= set(written)
    said = [word.split() for word in written if word[0] in "✓✗"]
    assert [mark for mark, _ in said] == ["✗"] * 5 + ["✓"] * 5  # a row per model
    truth = [word for word in written if word in CLASS_NAMES]
    assert [name for _, name in said[5:]] == truth and len(truth) == 5
    assert len(set(truth)) == len(set(labels[expected]))  # the classes take turns


@pytest.mark.slow
def test_one_model_alone_shows_conflicting_images_that_it_gets_right(models, digits, tmp_path):
    """Of a validation split that is cut out of the training split, so that its rows are not its positions."""
    (tmp_path / "data").mkdir()
    shutil.copy(digits / "test.parquet", tmp_path / "data" / "train.parquet")
    cut = {"dataset_name": str(tmp_path / "data"), "validation_share": 0.5, "test_share": 0.0}
    file = tmp_path / "explained" / "evidence.png"
    assert explain(model=models / "lff", split="validation", output_dir=file.parent, num_images=20, **cut) == 0
    model, transform, geometry = load_classifier(str(models / "lff"))
    split = load_image_splits(DataArguments(**cut), geometry)["validation"]
    measured = split.measured_by()
    predicted = predict_logits(model, split, transform, 64).argmax(dim=-1).numpy()
    right = predicted == measured["labels"]
    expected = np.flatnonzero(right & measured["is_conflicting"])
    assert 0 < len(expected) < min(20, right.sum())
    expected = classes_in_turn(expected, measured["labels"])
    images, labels = split.pixels[split.rows[expected]].numpy(), measured["labels"][expected]
    attributions = integrated_gradients(model, transform, split, expected, predicted[expected])
    title = f"{len(expected)} of {measured['is_conflicting'].sum()} bias-conflicting images: lff right"
    explained = {"lff": Explained(predicted[expected], attributions)}
    again = evidence_panel(images, labels, explained, CLASS_NAMES, title, tmp_path / "again.png")
    assert again.read_bytes() == file.read_bytes()


def test_pictures_go_into_the_folder_of_the_model(models, digits, tmp_path):
    folder = shutil.copytree(models / "disent", tmp_path / "disent")
    assert explain(model=folder, dataset_name=digits) == 0
    for name in ("evidence", "counterfactuals", "reliance"):
        width, height = Image.open(folder / "figures" / f"{name}.png").size
        assert width > 600 and height > 400
    assert (folder / "figures" / "reliance.csv").is_file()


@pytest.mark.slow
def test_models_of_different_sizes_are_compared_on_the_same_images(models, digits, tmp_path):
    file = tmp_path / "evidence.svg"
    both = {"model": models / "lff", "compare_with": models / "timm", "dataset_name": digits}
    assert explain(**both, output_dir=tmp_path, format="svg") == 0
    assert [word[0] for word in texts(file) if word[0] in "✓✗"] == ["✗"] * 8 + ["✓"] * 8


@pytest.mark.slow
def test_without_bias_labels_the_models_decide(models, tmp_path):
    data = coloured_digits(tmp_path / "data", leave_out=["bias_label", "is_conflicting"])
    file = tmp_path / "evidence.svg"
    options = {"model": models / "lff", "dataset_name": data, "output_dir": tmp_path, "format": "svg"}
    assert explain(**options) == 0
    right = (predictions(models / "lff", data) == opened(models / "lff", data)[2].measured_by()["labels"]).sum()
    assert f"{right} of 64 images: lff right" in texts(file)
    assert explain(**options, compare_with=models / "erm") == 0
    assert [word for word in texts(file) if re.match(r"\d+ of 64 images: erm wrong and lff right", word)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": ""}, "--model: expected the folder or Hub id"),
        ({"split": "holdout"}, "--split holdout: expected one of"),
        ({"num_images": 0}, "--num_images: expected 1 to 20, found 0"),
        ({"dataset_name": "no/such"}, "no/such"),
        ({"compare_with": "no/such"}, "--model no/such: expected a folder or Hub id"),
        ({"modle": "x"}, "unknown option"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(models, digits, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert explain(**{"model": models / "lff", "dataset_name": digits, **options}) == 2
    assert message in error_line(capsys)
    assert not list(tmp_path.iterdir()) and not (models / "lff" / "figures" / "reliance.csv").exists()


def test_the_same_model_twice_and_other_classes_are_refused(models, digits, tmp_path, capsys):
    assert explain(model=models / "lff", compare_with=models / "lff", dataset_name=digits) == 2
    assert "--compare_with: expected another model than --model" in error_line(capsys)
    shutil.copytree(models / "lff", tmp_path / "lff")
    config = (tmp_path / "lff" / "config.json").read_text().replace('"bar"', '"rod"')
    (tmp_path / "lff" / "config.json").write_text(config)
    assert explain(model=tmp_path / "lff", dataset_name=digits) == 2
    assert "expected a model of the classes bar, pole, cross, square, found rod" in error_line(capsys)


def test_without_captum_only_attributions_are_missing_and_the_way_to_install_it_is_said(
    models, digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "captum", None)
    assert explain(model=models / "lff", dataset_name=digits, output_dir=tmp_path) == 0
    message = "note: no evidence.png: expected the package captum, found none; pip install 'hf_biasensemble[explain]'"
    assert message in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"reliance.csv", "reliance.png", "counterfactuals.png"}
