"""`hf-biasensemble explain`: which images it shows. What changes with the images is in test_counterfactuals.py."""

import re
import shutil

import matplotlib
import numpy as np
import pytest
from PIL import Image
from runs import error_line, words
from synthetic import CLASS_NAMES, coloured_digits

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.evaluation.classifier import predict_logits
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.reporting.explain.counterfactuals import classes_in_turn, images_to_show

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


def chosen(data, *folders, split="test", num_images=8):
    classifiers = {folder.name: opened(folder, data, split) for folder in folders}
    return images_to_show(classifiers, num_images), classifiers[folders[-1].name][2].measured_by()


def test_images_are_conflicting_ones_that_only_the_model_gets_right(models, digits):
    shown, measured = chosen(digits, models / "erm", models / "lff", num_images=5)
    labels, conflicting = measured["labels"], measured["is_conflicting"]
    right, wrong = predictions(models / "lff", digits), predictions(models / "erm", digits)
    expected = conflicting & (right == labels) & (wrong != labels)
    assert 5 < expected.sum() < (right == labels).sum()
    assert shown.title == f"{expected.sum()} of {conflicting.sum()} bias-conflicting images: erm wrong and lff right"
    assert len(shown.positions) == 5 and expected[shown.positions].all()
    assert len(set(labels[shown.positions])) == len(set(labels[expected]))  # the classes take turns


def test_one_model_alone_shows_conflicting_images_that_it_gets_right(models, digits, tmp_path):
    """Of a validation split that is cut out of the training split, so that its rows are not its positions."""
    (tmp_path / "data").mkdir()
    shutil.copy(digits / "test.parquet", tmp_path / "data" / "train.parquet")
    model, transform, geometry = load_classifier(str(models / "lff"))
    cut = DataArguments(dataset_name=str(tmp_path / "data"), validation_share=0.5, test_share=0.0)
    split = load_image_splits(cut, geometry)["validation"]
    shown = images_to_show({"lff": (model, transform, split)}, 20)
    measured = split.measured_by()
    right = predict_logits(model, split, transform, 64).argmax(dim=-1).numpy() == measured["labels"]
    expected = np.flatnonzero(right & measured["is_conflicting"])
    assert 0 < len(expected) < min(20, right.sum())
    assert np.array_equal(shown.positions, classes_in_turn(expected, measured["labels"]))


def test_pictures_go_into_the_folder_of_the_model(models, digits, tmp_path):
    folder = shutil.copytree(models / "disent", tmp_path / "disent")
    assert explain(model=folder, dataset_name=digits) == 0
    for name in ("counterfactuals", "reliance"):
        width, height = Image.open(folder / "figures" / f"{name}.png").size
        assert width > 600 and height > 400
    assert (folder / "figures" / "reliance.csv").is_file()


def test_models_of_different_sizes_are_compared_on_the_same_images(models, digits, tmp_path):
    both = {"model": models / "lff", "compare_with": models / "timm", "dataset_name": digits, "num_images": 6}
    assert explain(**both, output_dir=tmp_path, format="svg", num_reliance_images=10) == 0
    shown, measured = chosen(digits, models / "timm", models / "lff", num_images=6)
    written = texts(tmp_path / "counterfactuals.svg")
    assert shown.title in written and {"timm", "lff"} <= set(written)
    originals = [CLASS_NAMES[label] for label in measured["labels"][shown.positions]]
    assert len(originals) == 6 and all(written.count(name) >= originals.count(name) for name in originals)


def test_without_bias_labels_the_models_decide(models, tmp_path):
    data = coloured_digits(tmp_path / "data", leave_out=["bias_label", "is_conflicting"])
    labels = opened(models / "lff", data)[2].measured_by()["labels"]
    right, wrong = predictions(models / "lff", data) == labels, predictions(models / "erm", data) != labels
    alone, _ = chosen(data, models / "lff")
    assert alone.title == f"{right.sum()} of 64 images: lff right"
    both, _ = chosen(data, models / "erm", models / "lff")
    assert both.title == f"{(right & wrong).sum()} of 64 images: erm wrong and lff right"


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
