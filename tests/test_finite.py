"""Logits that are not finite are an error wherever a classifier is measured: NaN is no class."""

import shutil

import pytest
import torch
from runs import error_line, train
from safetensors.torch import load_file, save_file

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import image_transform, load_image_splits
from hf_biasensemble.evaluation.classifier import evaluate_classifier
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods.erm import ErmTrainer
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.runs.run_arguments import parse_run


@pytest.fixture(params=[float("nan"), float("inf")], ids=["nan", "inf"])
def diverged(request, finished, tmp_path):
    """A run whose published classifier has a weight that is no number."""
    folder = shutil.copytree(finished("lff_be"), tmp_path / "run")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][1] = request.param
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("command", ["test", "judge", "predict", "explain"])
def test_command_refuses_logits_that_are_not_finite(command, diverged, digits, png_file, tmp_path, capsys):
    given = {
        "test": ["--dataset_name", digits, "--output_file", tmp_path / "m.json"],
        "judge": ["--members", diverged, "--dataset_name", digits],
        "predict": [png_file, "--output_file", tmp_path / "m.csv"],
        "explain": ["--dataset_name", digits],
    }[command]
    assert run_command(command, ["--model", str(diverged), *map(str, given)]) == 2
    assert "expected finite logits, found NaN or infinity for " in error_line(capsys)
    assert not list(tmp_path.glob("m.*"))


@pytest.fixture
def png_file(digits, tmp_path):
    from datasets import load_dataset

    load_dataset(str(digits), split="test")[0]["image"].save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_evaluation_refuses_logits_that_are_not_finite(diverged, digits):
    model, transform, geometry = load_classifier(str(diverged))
    data_args, *_ = parse_run(["--dataset_name", str(digits), "--output_dir", "unused"])
    with pytest.raises(BiasEnsembleError, match="found NaN or infinity for 64 of 64 images"):
        evaluate_classifier(model, load_image_splits(data_args, geometry)["test"], transform)


def test_trainer_refuses_logits_that_are_not_finite(digits, tmp_path):
    data_args, model_args, _, args = parse_run(
        ["--dataset_name", str(digits), "--output_dir", str(tmp_path), "--method", "erm", "--max_steps", "1"]
    )
    splits = load_image_splits(data_args, 28)
    model = classifier_alone(model_args, splits["train"].class_names, 0)
    trainer = ErmTrainer(model, args, image_transform(model_args), splits["train"], {"test": splits["test"]})
    assert 0 <= trainer.evaluate()["test_accuracy"] <= 1
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    for measure in (trainer.evaluate, lambda: trainer.predict(splits["test"])):
        with pytest.raises(BiasEnsembleError, match="expected finite logits"):
            measure()


def test_training_that_diverges_says_so_where_it_is_evaluated(digits, tmp_path, capsys):
    given = {"learning_rate": 1e30, "max_steps": 4, "eval_steps": 2, "logging_steps": 100, "save_steps": 100}
    assert train(digits, tmp_path / "out", **given) == 2
    assert "the loss is " in (message := error_line(capsys)) and "lower --learning_rate" in message
