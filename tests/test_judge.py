"""Real runs judged without bias labels: members are kept, judge any model, and choose a step; no label decides."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import error_line, history, launch, results, selection_inputs, train, weights, words
from synthetic import CLASS_NAMES, coloured_digits
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.judging.estimates import ESTIMATES, group_means
from hf_biasensemble.judging.members import Members
from hf_biasensemble.judging.predictions import HeldOutPredictions
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice

JUDGED = {"max_steps": 40, "eval_steps": 8, "save_steps": 8}
OWN_MEMBERS = {**JUDGED, "member_steps": 60, "member_threshold": 0.5}
# Accuracy that goes up and down, judged by members that do not.
UNSTEADY = {**OWN_MEMBERS, "learning_rate": 0.03, "member_learning_rate": 0.003, "checkpoint_choice": "estimated"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coloured_digits(tmp_path_factory.mktemp("data"), num_train=160, num_validation=240, conflicting_share=0.15)


@pytest.fixture(scope="module")
def judged(data, tmp_path_factory):
    """A run with BiasEnsemble, and ERM judged by its members."""
    folder = tmp_path_factory.mktemp("judged")
    assert train(data, folder / "erm_alone", "erm", **JUDGED) == 0
    assert train(data, folder / "lff_be", "lff_be", compare_with=folder / "erm_alone", **OWN_MEMBERS) == 0
    assert train(data, folder / "erm", "erm", judge=folder / "lff_be", **JUDGED) == 0
    return folder


@pytest.fixture
def copied(judged, tmp_path):
    return shutil.copytree(judged, tmp_path / "copy")


def judge_words(folder, data, *models, **changes):
    given = {"dataset_name": data, "members": folder / "lff_be", **changes}
    words = ["--model", *models, *(word for name, value in given.items() for word in (f"--{name}", value))]
    return [str(word) for word in words]


# Members -------------------------------------------------------------------------------------------------------------


def test_saved_members_say_what_the_trained_ones_said(judged, data):
    members = Members.load(judged / "lff_be")
    splits = selection_inputs(data, judged / "none")[1].images
    train_split, made = splits["train"], Selection.load(judged / "lff_be" / "selection")
    said = members.groups_of(train_split)
    assert np.array_equal(said.predicted, made.predicted_labels)
    assert said.label_probability == pytest.approx(made.mean_probability, abs=1e-6)
    assert members.train_fingerprint == train_split.fingerprint


def test_pseudo_groups_are_mostly_those_of_the_colour(judged, data):
    """What the test is about needs members that follow the colour."""
    splits = selection_inputs(data, judged / "none")[1].images
    groups = Members.load(judged / "lff_be" / "selection").groups_of(splits["validation"])
    truth = splits["validation"].measured_by()
    assert (groups.predicted == truth["bias_labels"]).mean() > 0.9
    assert groups.is_conflicting.sum() >= 10


def test_members_of_other_images_are_no_judge(judged, tmp_path, capsys):
    other = coloured_digits(tmp_path / "data", num_train=160, num_validation=240, seed=1)
    assert train(other, tmp_path / "out", "erm", judge=judged / "lff_be", **JUDGED) == 2
    assert "may have learned from its validation images" in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_folder_without_members_is_named(data, judged, tmp_path, capsys):
    assert train(data, tmp_path / "out", "erm", judge=judged / "erm", **JUDGED) == 2
    assert "found no members.safetensors there" in error_line(capsys)


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", ["false", "true"])
def test_who_judges_changes_nothing_of_the_training(judged, data, tmp_path, flip):
    """Though networks are built to open the members."""
    for name, judge in (("alone", {}), ("judged", {"judge": judged / "lff_be"})):
        options = {"max_steps": 8, "horizontal_flip": flip, **judge}
        assert train(data, tmp_path / name, "erm", **options) == 0
    assert weights(tmp_path / "alone") == weights(tmp_path / "judged")


def test_estimates_stand_in_history_results_and_card(judged):
    for name in ("lff_be", "erm"):
        found, rows = results(judged / name), history(judged / name)
        table = HeldOutPredictions.load(judged / name, "validation")
        assert table.groups.members
        for key, value in table.estimates().items():
            assert found[f"validation_{key}"] == pytest.approx(value)
            assert float(rows[-1][f"validation_{key}"]) == pytest.approx(value)
        low, high, images = found["validation_estimated_intervals"]["estimated_conflicting_accuracy"]
        assert low <= found["validation_estimated_conflicting_accuracy"] <= high
        assert images == found["validation_judged_by"]["pseudo_conflicting"] == table.groups.is_conflicting.sum()
        card = (judged / name / "README.md").read_text()
        assert "### Estimated without bias labels" in card
        row = f"| validation | {100 * found['validation_estimated_aligned_accuracy']:.1f} ("
        assert row in card
    by = {name: results(judged / name)["validation_judged_by"] for name in ("lff_be", "erm")}
    assert by["lff_be"] == by["erm"]


def test_estimates_are_in_no_measured_metadata(judged):
    import yaml

    metadata = yaml.safe_load((judged / "lff_be" / "README.md").read_text().split("---")[1])
    measured = [
        metric["type"]
        for result in metadata["model-index"]
        for entry in result["results"]
        for metric in entry["metrics"]
    ]
    assert "conflicting_accuracy" in measured and not [name for name in measured if "estimated" in name]


def test_run_without_members_has_no_estimates(judged):
    found = results(judged / "erm_alone")
    assert not [key for key in found if "estimated" in key or "judge" in key]
    assert "Estimated" not in (judged / "erm_alone" / "README.md").read_text()


def test_the_run_ends_with_the_sentence_beside_the_other_run(judged):
    said = results(judged / "lff_be")["validation_judgement"]
    ours = HeldOutPredictions.load(judged / "lff_be", "validation")
    erm = replace(HeldOutPredictions.load(judged / "erm_alone", "validation"), groups=ours.groups)
    assert f"{ours.intervals()['conflicting']} on images that contradict the shortcut" in said
    assert f", erm {erm.intervals()['conflicting']}" in said


def test_bias_labels_change_no_estimate_and_no_choice(judged, tmp_path):
    """Not those of training, nor those of the held-out images."""
    blind = coloured_digits(
        tmp_path / "data",
        num_train=160,
        num_validation=240,
        conflicting_share=0.15,
        leave_out=["bias_label", "is_conflicting"],
    )
    assert train(blind, tmp_path / "out", "lff_be", checkpoint_choice="estimated", **OWN_MEMBERS) == 0
    seeing = coloured_digits(
        tmp_path / "seeing", num_train=160, num_validation=240, conflicting_share=0.15, shuffled_bias=True
    )
    assert train(seeing, tmp_path / "again", "lff_be", checkpoint_choice="estimated", **OWN_MEMBERS) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "again")
    one, other = (HeldOutPredictions.load(tmp_path / name, "validation") for name in ("out", "again"))
    assert one.estimates() == other.estimates() != {}
    assert results(tmp_path / "out")["published_step"] == results(tmp_path / "again")["published_step"]
    known = results(judged / "lff_be")
    last = {key: known[f"validation_{key}"] for key in ESTIMATES}
    assert {key: float(history(tmp_path / "out")[-1][f"validation_{key}"]) for key in ESTIMATES} == last


# Choice of the step --------------------------------------------------------------------------------------------------


def smoothed(rows) -> list[float]:
    scores = [float(row["validation_estimated_unbiased_probability"]) for row in rows]
    around = [[score, *scores[max(0, place - 1) : place + 2]] for place, score in enumerate(scores)]
    return [sum(some) / len(some) for some in around]


def test_estimated_choice_is_the_best_mean_of_neighbours(data, tmp_path):
    changes = {**UNSTEADY, "max_steps": 64, "save_total_limit": 20}
    assert train(data, tmp_path / "out", "lff_be", **changes) == 0
    rows, found = history(tmp_path / "out"), results(tmp_path / "out")
    scores = smoothed(rows)
    best = max(place for place, score in enumerate(scores) if score == max(scores))
    assert found["published_step"] == int(rows[best]["step"])
    assert found["checkpoint_choice"] == "estimated"
    checkpoint = tmp_path / "out" / f"checkpoint-{found['published_step']}" / "model.safetensors"
    from safetensors.torch import load_file

    kept = {name.removeprefix("debiased."): value for name, value in load_file(checkpoint).items()}
    published = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in published.items())


@pytest.mark.parametrize(
    "scores, step", [([1, 5, 1, 4, 4, 1], 5), ([1, 1, 1, 9], 4), ([9, 1, 1, 1], 1), ([2, 2, 2], 3), ([1, 5, 2, 5], 4)]
)
def test_choice_of_a_smoothed_score(scores, step):
    choice, model = CheckpointChoice("estimated"), torch.nn.Linear(1, 1)
    for number, score in enumerate(scores, start=1):
        model.weight.data.fill_(number)
        choice.consider(number, {"validation_estimated_unbiased_probability": float(score)}, model)
    choice.settle()
    assert choice.step == step and float(choice.weights["weight"]) == step


def test_interrupted_choice_goes_on_bitwise(data, tmp_path):
    changes = {**UNSTEADY, "save_total_limit": 20}
    assert train(data, tmp_path / "whole", "lff_be", **changes) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for path in (tmp_path / "killed").iterdir():
        if path.name not in ("config.yaml", "selection", "checkpoint-8", "checkpoint-16"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert train(data, tmp_path / "killed", "lff_be", resume_from_checkpoint="true", **changes) == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    whole, killed = results(tmp_path / "whole"), results(tmp_path / "killed")
    assert {key: value for key, value in killed.items() if "estimated" in key or "judge" in key} == {
        key: value for key, value in whole.items() if "estimated" in key or "judge" in key
    }


def test_estimated_choice_without_members_is_refused(data, tmp_path, capsys):
    assert train(data, tmp_path / "out", "erm", checkpoint_choice="estimated", **JUDGED) == 2
    assert "name a run that has some with --judge RUN" in error_line(capsys)


def test_choice_falls_back_to_the_last_step_where_nothing_can_be_told(digits, tmp_path, capsys):
    """32 validation images hold three that contradict the members."""
    assert train(digits, tmp_path / "out", "lff_be", checkpoint_choice="estimated") == 0
    said, found = capsys.readouterr().out, results(tmp_path / "out")
    assert "cannot tell which step is best, so the last one is published; only" in said
    assert (found["checkpoint_choice"], found["published_step"]) == ("last", 12)
    assert "cannot tell; only" in found["validation_judgement"]
    assert not [key for key in found if "estimated" in key]


# The command ---------------------------------------------------------------------------------------------------------


def test_command_compares_models(judged, data, tmp_path, capsys):
    erm, lff_be = judged / "erm", judged / "lff_be"
    assert (
        run_command("judge", judge_words(judged, data, lff_be, compare_with=erm, output_file=tmp_path / "out.json"))
        == 0
    )
    said, found = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    for folder in (erm, lff_be):
        table = HeldOutPredictions.load(folder, "validation")
        stated = found["models"][str(folder)]["estimates"]["conflicting"]
        assert stated[0] == pytest.approx(table.estimates()["estimated_conflicting_accuracy"])
        assert f"{100 * stated[0]:.1f} ({100 * stated[1]:.1f} to {100 * stated[2]:.1f})" in said
    answer = found["models"][str(lff_be)]["verdict"]
    assert answer in ("better", "worse", "cannot tell") and f"{lff_be}: {answer}" in said
    assert "verdict" not in found["models"][str(erm)]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Classifiers of plain transformers with random weights, whose classes come in another order."""
    torch.manual_seed(0)
    names = CLASS_NAMES[::-1]
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    folder = tmp_path_factory.mktemp("foreign")
    vit = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        **classes,
    )
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], **classes)
    for name, model in (("vit", ViTForImageClassification(vit)), ("resnet", ResNetForImageClassification(resnet))):
        model.eval().save_pretrained(folder / name)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / name)
    return folder


def test_any_classifier_of_transformers_can_be_judged(foreign, judged, data, tmp_path):
    """By its own preprocessing and its own order of classes, which plain transformers confirms."""
    import datasets
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    models = [foreign / "vit", foreign / "resnet"]
    assert run_command("judge", judge_words(judged, data, *models, output_file=tmp_path / "out.json")) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    images = datasets.load_dataset("parquet", data_files=str(data / "validation.parquet"))["train"]
    groups = HeldOutPredictions.load(judged / "erm", "validation").groups
    for folder in models:
        processor, model = (
            AutoImageProcessor.from_pretrained(folder),
            AutoModelForImageClassification.from_pretrained(folder),
        )
        inputs = processor([image.convert("RGB") for image in images["image"]], return_tensors="pt")
        with torch.inference_mode():
            said = [model.config.id2label[number] for number in model(**inputs).logits.argmax(-1).tolist()]
        right = np.array([name == CLASS_NAMES[label] for name, label in zip(said, images["label"], strict=True)])
        means = group_means(right.astype(float), groups)
        for name, (value, low, high, _) in found["models"][str(folder)]["estimates"].items():
            assert value == pytest.approx(means[name], abs=0.03) and low <= value <= high


def test_model_of_other_classes_is_refused(foreign, judged, data, tmp_path, capsys):
    other = shutil.copytree(foreign / "vit", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["id2label"]["0"] = "elephant"
    config["label2id"] = {name: int(number) for number, name in config["id2label"].items()}
    (other / "config.json").write_text(json.dumps(config))
    assert run_command("judge", judge_words(judged, data, other)) == 2
    assert "expected a model of the classes bar, pole, cross, square, found elephant" in error_line(capsys)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"split": "train"}, "expected a split that the members were not trained on"),
        ({"split": "dev"}, "--split dev: expected one of train, validation, test"),
        ({"batch_size": 0}, "--batch_size: expected at least 1"),
        ({"members": ""}, "--members: expected the folder of a run with BiasEnsemble, found nothing"),
    ],
)
def test_mistakes_get_one_line(judged, data, capsys, changes, said):
    assert run_command("judge", judge_words(judged, data, judged / "erm", **changes)) == 2
    assert said in error_line(capsys)


def test_cannot_tell_ends_with_status_0_and_no_number(judged, digits, capsys):
    assert run_command("judge", judge_words(judged, digits, judged / "erm")) == 0
    said = capsys.readouterr()
    told = said.out.splitlines()[-1]  # before it, how the data were read
    assert told.startswith("cannot tell: only") and "to " not in told.split(";")[0]
    assert "not trained on the training split of this dataset" in said.err


# Folds, processes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sweep_by_folds_judges_each_training_image_once(data, tmp_path, capsys):
    given = words(data, tmp_path / "out", "lff_be", **{**OWN_MEMBERS, "max_steps": 10, "eval_steps": 10})
    place = given.index("--method")
    given[place : place + 2] = ["--methods", "erm", "lff_be"]
    given = [word for word in given if word not in ("--disable_tqdm",)]
    given.remove("true") if given.count("true") > 1 else None
    assert run_command("sweep", [*given, "--seeds", "0", "--judge_folds", "3"]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## Judged without bias labels" in text
    folder = tmp_path / "out" / "default"
    tables = [
        HeldOutPredictions.load(part, "validation") for part in sorted((folder / "erm" / "seed_0").glob("fold_*"))
    ]
    assert len(tables) == 3
    assert sorted(np.concatenate([table.index for table in tables])) == list(range(160))
    for number, table in enumerate(tables, start=1):
        ours = HeldOutPredictions.load(folder / "lff_be" / "seed_0" / f"fold_{number}_of_3", "validation")
        assert ours.groups.digest == table.groups.digest and ours.is_about(table)


@pytest.mark.parametrize("fold", ["0/3", "4/3", "1/1", "half", "1/2/3"])
def test_folds_that_there_are_not_are_refused(data, tmp_path, capsys, fold):
    assert train(data, tmp_path / "out", "erm", validation_fold=fold) == 2
    assert f"--validation_fold: expected K/N with K in 1..N and N at least 2, such as 1/5, found {fold}" in error_line(
        capsys
    )


@pytest.mark.slow
def test_two_processes_judge_as_one(judged, data, tmp_path):
    changes = {**OWN_MEMBERS, "max_steps": 16, "per_device_train_batch_size": 8, "checkpoint_choice": "estimated"}
    launched = launch(2, *words(data, tmp_path / "two", "lff_be", selection_dir=tmp_path / "shared", **changes))
    assert launched.returncode == 0, launched.stderr
    changes["per_device_train_batch_size"] = 16
    assert train(data, tmp_path / "one", "lff_be", selection_dir=tmp_path / "shared", **changes) == 0
    one, two = (HeldOutPredictions.load(tmp_path / name, "validation") for name in ("one", "two"))
    assert one.groups.digest == two.groups.digest and np.array_equal(
        one.groups.label_probability, two.groups.label_probability
    )
    assert one.estimates() == pytest.approx(two.estimates(), abs=1e-4)
    assert results(tmp_path / "one")["published_step"] == results(tmp_path / "two")["published_step"]
