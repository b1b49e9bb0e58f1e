"""Which step is published, and how that is said."""

import logging
import shutil

import pytest
import torch
import yaml
from runs import error_line, history, results, train, weights
from safetensors.torch import load_file, save_file
from synthetic import coloured_digits

from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice

# Steps so long that accuracy goes up and down, and a checkpoint at every evaluation to compare with.
UNSTEADY = {"learning_rate": 0.1, "max_steps": 30, "eval_steps": 3, "save_steps": 3, "save_total_limit": 20}
METRIC = {"validation_accuracy": "validation_accuracy", "validation_ac_score": "validation_ac_score"}
METRIC["oracle_test"] = "test_accuracy"


@pytest.fixture(scope="module")
def many_to_validate(tmp_path_factory):
    """So many validation images that few evaluations are equal."""
    return coloured_digits(tmp_path_factory.mktemp("data"), num_validation=120)


@pytest.mark.parametrize("choice", ["validation_accuracy", "validation_ac_score", "oracle_test"])
def test_latest_best_step_is_published_beside_the_last(many_to_validate, tmp_path, choice):
    assert train(many_to_validate, tmp_path / "out", "lff", checkpoint_choice=choice, **UNSTEADY) == 0
    rows = history(tmp_path / "out")
    scores = [float(row[METRIC[choice]]) for row in rows]
    best = [row for row, score in zip(rows, scores, strict=True) if score == max(scores)][-1]
    found = results(tmp_path / "out")
    assert found["checkpoint_choice"] == choice
    assert found["published_step"] == int(best["step"]) < 30
    for key in rows[0].keys() - {"step"}:
        assert found[key] == float(best[key])
        assert found[f"last_step_{key}"] == float(rows[-1][key])
    checkpoint = load_file(tmp_path / "out" / f"checkpoint-{best['step']}" / "model.safetensors")
    published = load_file(tmp_path / "out" / "model.safetensors")
    assert published.keys() == {name[len("debiased.") :] for name in checkpoint if name.startswith("debiased.")}
    assert all(torch.equal(value, checkpoint[f"debiased.{name}"]) for name, value in published.items())


def test_last_step_is_the_default_and_stands_alone(digits, tmp_path):
    assert train(digits, tmp_path / "out", "erm") == 0
    found = results(tmp_path / "out")
    assert (found["checkpoint_choice"], found["published_step"]) == ("last", 12)
    assert not [key for key in found if key.startswith("last_step_")]
    assert not list((tmp_path / "out").glob("checkpoint-*/published.safetensors"))


def test_best_step_before_an_interruption_is_remembered(many_to_validate, tmp_path):
    """The best evaluation comes before the checkpoint; resuming must not forget it."""
    changes = {**UNSTEADY, "checkpoint_choice": "validation_ac_score"}
    assert train(many_to_validate, tmp_path / "whole", "lff", **changes) == 0
    best = results(tmp_path / "whole")["published_step"]
    assert best < 27
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for path in (tmp_path / "killed").iterdir():
        if path.name not in ("config.yaml", "checkpoint-27"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert train(many_to_validate, tmp_path / "killed", "lff", resume_from_checkpoint="true", **changes) == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    runtime = {"train_runtime", "train_steps_per_second", "train_loss"}
    kept, resumed = results(tmp_path / "whole"), results(tmp_path / "killed")
    assert {k: v for k, v in kept.items() if k not in runtime} == {
        k: v for k, v in resumed.items() if k not in runtime
    }


def test_state_of_another_version_is_refused(many_to_validate, tmp_path, capsys):
    changes = {"checkpoint_choice": "validation_accuracy", "max_steps": 6, "eval_steps": 3, "save_steps": 3}
    assert train(many_to_validate, tmp_path / "out", "erm", **changes) == 0
    (tmp_path / "out" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    file = tmp_path / "out" / "checkpoint-3" / "published.safetensors"
    state = load_file(file)
    save_file({name: value for name, value in state.items() if name != "figures"}, file)
    assert train(many_to_validate, tmp_path / "out", "erm", resume_from_checkpoint="true", **changes) == 2
    assert f"{file}: expected what this version of the library saves, found something else" in error_line(capsys)


def test_oracle_is_warned_of_and_marked(digits, tmp_path, capsys, caplog):
    with caplog.at_level(logging.WARNING):
        assert train(digits, tmp_path / "out", "erm", checkpoint_choice="oracle_test") == 0
    assert "oracle_test publishes the step that is best on the test split" in caplog.text
    assert "erm, oracle, chosen on the test set test " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("choice", "data_changes", "run_changes", "said"),
    [
        ("validation_ac_score", {"leave_out": ("bias_label", "is_conflicting")}, {}, "found no bias labels"),
        ("validation_ac_score", {"conflicting_share": 0.0}, {}, "found one kind only"),
        (
            "validation_accuracy",
            {"num_validation": 0},
            {"validation_share": 0},
            "expected a validation split, found train, test",
        ),
        ("oracle_test", {"num_test": 0}, {"test_share": 0}, "found train, validation"),
        ("validation_accuracy", {}, {"eval_strategy": "no"}, "found --eval_strategy no"),
    ],
)
def test_choice_that_the_data_cannot_make_is_refused(tmp_path, capsys, choice, data_changes, run_changes, said):
    data = coloured_digits(tmp_path / "data", **data_changes)
    for split in ("validation", "test"):
        if data_changes.get(f"num_{split}") == 0:
            (data / f"{split}.parquet").unlink()
    assert train(data, tmp_path / "out", "erm", checkpoint_choice=choice, **run_changes) == 2
    message = error_line(capsys)
    assert f"--checkpoint_choice {choice}: " in message and said in message and message.endswith("use last")
    assert not (tmp_path / "out" / "config.yaml").exists()


@pytest.mark.slow
def test_published_protocol_is_a_preset(digits, tmp_path, capsys):
    unsure = {"member_threshold": 0.2, "member_eval_steps": 7, "member_steps": 501}
    assert train(digits, tmp_path / "out", "lff_be", published_protocol="true", **unsure) == 0
    settings = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    found = {name: settings[name] for name in ("keep_member", "member_eval_steps", "checkpoint_choice")}
    assert found == {"keep_member": "best", "member_eval_steps": 500, "checkpoint_choice": "oracle_test"}
    assert results(tmp_path / "out")["checkpoint_choice"] == "oracle_test"
    capsys.readouterr()
    mixed = {"published_protocol": "true", "checkpoint_choice": "validation_accuracy"}
    assert train(digits, tmp_path / "other", "lff_be", **mixed) == 2
    assert "expected one of last, oracle_test (--published_protocol), found validation_accuracy" in error_line(capsys)


def test_only_weights_as_good_as_any_before_are_kept_and_survive_a_checkpoint():
    choice = CheckpointChoice("validation_accuracy")
    model = torch.nn.Linear(2, 1)
    for step, score in ((1, 0.7), (2, 0.5), (3, 0.7), (4, 0.6)):
        model.weight.data.fill_(step)
        choice.consider(step, {"validation_accuracy": score}, model)
    assert (choice.step, choice.score) == (3, 0.7)
    assert choice.weights["weight"].tolist() == [[3.0, 3.0]]
    loaded = CheckpointChoice("validation_accuracy")
    loaded.load_state_dict(choice.state_dict())
    assert (loaded.step, loaded.score) == (3, 0.7)
    assert all(torch.equal(loaded.weights[name], value) for name, value in choice.weights.items())
