"""The choice between methods by folds: the rule and its test, candidates, and whole runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from runs import error_line, killed_after, results, selection_inputs, train, weights, words
from safetensors.torch import save_file
from synthetic import coloured_digits
from transformers import TrainerCallback

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.judging.folds import chance_of_best, choose, doubt_of_members, hardest_images
from hf_biasensemble.judging.members import Members
from hf_biasensemble.methods import METHODS
from hf_biasensemble.runs.choosing import Candidate
from hf_biasensemble.runs.run import run
from hf_biasensemble.runs.run_arguments import parse_run
from hf_biasensemble.selection import Selection

BACKBONE = "test_resnet"


def judged(**right):
    """100 images, the first 20 the hardest; how many of these, and of the others, each candidate gets right."""
    probability = np.concatenate([np.linspace(0, 0.1, 20), np.linspace(0.5, 1, 80)])
    return {
        name.replace("_", ":"): np.concatenate([np.arange(20) < hard, np.arange(80) < easy])
        for name, (hard, easy) in right.items()
    }, probability


def test_hardest_images_are_one_in_a_hundred_but_at_least_twenty():
    random = np.random.default_rng(0)
    for images, count in ((12, 12), (100, 20), (5000, 50)):
        probability = random.random(images)
        found = hardest_images(probability)
        assert len(found) == count and probability[found].max() <= np.sort(probability)[count - 1]


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ({"erm": (4, 80), "one": (9, 79), "other": (12, 78)}, "other"),
        ({"erm": (4, 80), "one": (9, 79), "other": (20, 50)}, "one"),  # the best of all costs 14 points
        ({"erm": (4, 80), "one": (4, 80), "other": (3, 80)}, "erm"),  # nothing beats it
        ({"erm": (4, 80), "one": (9, 78), "other": (9, 80)}, "one"),  # of equal ones, the first
    ],
)
def test_the_rule(right, chosen):
    correct, probability = judged(**right)
    found = choose(correct, probability, "erm", 0.03)
    assert found.chosen == chosen and found.hardest == 20
    assert {entry.name: entry.on_hardest for entry in found.candidates} == {
        name: values[:20].mean() for name, values in correct.items()
    }
    assert found.sentence().startswith(f"Judged by folds without bias labels: {chosen}")


@pytest.mark.parametrize(
    ("alike", "wrong", "said"),
    [
        (5, 20, None),
        (4, 20, None),
        (3, 20, "the members disagree about the 20 training images that contradict them: on average 60%"),
        (5, 9, "only 9 of 100 training images contradict the members, at least 10 are needed"),
        (5, 10, None),
        (5, 60, "the members are right on only 40% of the held-out images"),
    ],
)
def test_members_that_err_apart_or_follow_no_shortcut_cannot_rank(alike, wrong, said):
    """`alike` of five members agree about the first `wrong` of 100 images, which they get wrong; all about others."""
    labels, contradicts = np.arange(100) % 2, np.arange(100) < wrong
    columns = {"predicted_labels": np.where(contradicts, 1 - labels, labels)}
    columns["agreeing_members"] = np.where(contradicts, alike, 5)
    probability = np.where(contradicts, 0.1, 0.9).astype(np.float32)[None]
    made = {"num_members": 5}
    found = doubt_of_members(Selection.from_votes(probability, np.arange(100), labels, 0.5, 1, made, **columns), 2)
    assert (found is None) if said is None else found.startswith(said)


def test_a_clear_gain_is_told_from_chance_and_a_small_one_is_not():
    clear = choose(*judged(erm=(2, 80), one=(14, 80)), "erm", 0.03)
    small = choose(*judged(erm=(2, 80), one=(4, 80)), "erm", 0.03)
    assert clear.is_better and "p = 0.0" in clear.sentence()
    assert small.chosen == "one" and not small.is_better and "cannot tell this from chance" in small.sentence()


@pytest.mark.parametrize("images", [20, 50])
def test_the_best_of_equal_candidates_is_rarely_called_better(images):
    """Though it was picked for being the best of eight, which all err for reasons of their own."""
    random, false = np.random.default_rng(1), 0
    for _ in range(100):
        gained = (random.random((images, 8)) < 0.4).astype(float) - (random.random((images, 1)) < 0.4)
        false += chance_of_best(gained) < 0.05
    assert false <= 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "expected one of"),
        ("auto", "expected methods that train a classifier, found auto"),
        ("lff:tau=1", "expected option=value with options of lff"),
        ("product_of_experts:adjustment_tau", "expected option=value"),
        ("product_of_experts:adjustment_tau=true", "expected option=value"),
        ("product_of_experts:adjustment_tau=1.2.3", "expected option=value"),
    ],
)
def test_what_cannot_be_a_candidate_is_refused(name, said):
    with pytest.raises(Exception, match=said):
        Candidate.of(name)


def test_a_candidate_has_its_own_options():
    candidate = Candidate.of("logit_adjusted:adjustment_tau=2,adjustment=soft")
    settings = candidate.settings(METHODS["auto"].arguments(output_dir="out", max_steps=7))
    assert Candidate.of("product_of_experts:adjustment_tau=.5").options == {"adjustment_tau": 0.5}
    assert (settings.adjustment_tau, settings.adjustment, settings.max_steps) == (2, "soft", 7)
    assert (settings.method, type(settings)) == ("logit_adjusted", METHODS["logit_adjusted"].arguments)


# Runs ----------------------------------------------------------------------------------------------------------------


def test_dry_run_counts_early_features_too(digits, tmp_path, frozen, capsys):
    options = {**frozen, "augmentation": "none"}
    assert train(digits, tmp_path / "out", "auto", **options, dry_run="true") == 0
    _, inputs, *_ = selection_inputs(digits, tmp_path / "out", "lff_be", **options)
    values = sum(split.pixels.shape.numel() for kind in inputs.encoded.values() for split in kind.values())
    assert f"{2 * values / 1000:.3g} kB of features" in capsys.readouterr().out


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """Options of a run that chooses, on features of a tiny network."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(timm.create_model(BACKBONE, num_classes=0).state_dict(), file)
    network = {"backbone": BACKBONE, "pretrained_weights": file, "image_size": 32, "freeze_backbone": "true"}
    return {**network, "feature_views": 2, "augmentation": "photographs"}


CHOICE = {"candidates": ["erm", "lff", "lff_be", "product_of_experts:adjustment_tau=0.5"], "folds": 3}


@pytest.mark.parametrize("method", ["erm", "lff", "group_dro_be"])
def test_bare_training_gives_the_same_weights(digits, tmp_path, frozen, method):
    options = {**frozen, "max_steps": 15, "eval_strategy": "no", "save_strategy": "no"}
    _, inputs, selection_args, args = selection_inputs(digits, tmp_path / "out", method, **options)
    described, extra = METHODS[method], {}
    inside = np.arange(7, len(inputs.splits["train"]))  # some of the images, as without a fold
    if described.selector:
        seen = {"train": inputs.member_splits["train"].select(inside)}
        members = described.selector.trainer(inputs.member_args, selection_args, args, seen, [])
        members.train()
        extra = {"selection": members.select({})}
    states = []
    for way in ("train", "train_bare"):
        network = described.network(inputs.network_args, inputs.images["train"].class_names, args.seed)
        fold = inputs.splits["train"].select(inside)
        trainer = described.trainer(network, args, inputs.transform, train_dataset=fold, **extra)
        getattr(trainer, way)()
        states.append(trainer.model.state_dict())
    start = described.network(inputs.network_args, inputs.images["train"].class_names, args.seed).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in states[0].items())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_chosen_one_is_trained_and_the_run_says_why(digits, tmp_path, frozen, capsys):
    assert train(digits, tmp_path / "auto", "auto", **frozen, **CHOICE) == 0
    found, said = results(tmp_path / "auto")["candidates"], capsys.readouterr().out
    assert [entry["name"] for entry in found["candidates"]] == CHOICE["candidates"]
    assert found["sentence"] in said and "fold 3 of 3" in said
    method, _, option = found["chosen"].partition(":")
    same = dict([option.split("=")]) if option else {}
    members = {"cross_fit": "true", "balance_members": "true"} if METHODS[method].selector else {}
    assert train(digits, tmp_path / "same", method, **frozen, **same, **members) == 0
    assert weights(tmp_path / "auto") == weights(tmp_path / "same")
    card = (tmp_path / "auto" / "README.md").read_text()
    assert "### How the method was chosen" in card and f"| `{found['chosen']}` |" in card
    assert json.loads((tmp_path / "auto" / "selection" / "candidates.json").read_text()) == found


def test_without_members_that_can_rank_the_first_candidate_is_trained_and_no_fold(digits, tmp_path, frozen, capsys):
    at_chance = {"member_steps": 1, "member_learning_rate": 1e-9}
    assert train(digits, tmp_path / "out", "auto", **frozen, **CHOICE, **at_chance) == 0
    found, said = results(tmp_path / "out")["candidates"], capsys.readouterr().out
    assert found["chosen"] == "erm" and not found["candidates"] and not found["is_better"]
    assert "cannot tell; the members are right on only" in found["sentence"] and "fold 1" not in said
    assert found["sentence"] in said and "erm is trained." in (tmp_path / "out" / "README.md").read_text()
    assert train(digits, tmp_path / "erm", "erm", **frozen) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "erm")


def test_bias_labels_validation_and_test_images_change_no_choice(tmp_path, frozen):
    chosen = []
    for number, changes in enumerate(({}, {"leave_out": ["bias_label", "is_conflicting"]}, {"shuffled_bias": True})):
        data = coloured_digits(tmp_path / f"data{number}", num_train=160, **changes)
        assert train(data, tmp_path / f"out{number}", "auto", **frozen, **CHOICE) == 0
        chosen.append(results(tmp_path / f"out{number}")["candidates"])
    assert chosen[0] == chosen[1] == chosen[2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"freeze_backbone": "false"}, "--freeze_backbone true or --feature_column, where candidates take seconds"),
        ({"candidates": ["erm", "jtt"]}, "expected methods without a selector or with BiasEnsemble members"),
        ({"candidates": ["erm"]}, "--candidates: expected at least two methods"),
        ({"folds": 1}, "--folds: expected at least 2"),
        ({"folds": 99}, "--folds: expected 99 training images or more of each class"),
        ({"accept_loss": -1}, "--accept_loss: expected in [0, 100]"),
        ({"cross_fit": "false"}, "--cross_fit: expected true"),
        ({"keep_member": "best"}, "--keep_member: expected last with --method auto"),
        ({"published_protocol": "true"}, "--published_protocol: expected false with --method auto"),
        ({"candidates": ["erm", "logit_adjusted:adjustment=firm"]}, "--adjustment: expected one of hard, soft"),
        ({"candidates": ["erm", "last_layer_be"], "head": "mlp"}, "last_layer_be, which only trains a linear"),
    ],
)
def test_mistakes_get_one_line(digits, tmp_path, frozen, capsys, changes, said):
    assert train(digits, tmp_path / "out", "auto", **{**frozen, **CHOICE, **changes}) == 2
    assert said in error_line(capsys)
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_members_of_an_audit_serve_the_choice(digits, tmp_path, frozen):
    """As in a sweep, which trains the members first."""
    options = {**frozen, **CHOICE, "selection_dir": tmp_path / "members"}
    shares = {"validation_share": 0.1, "test_share": 0.1}
    assert run_command("audit", words(digits, tmp_path / "audit", "auto", **options, **shares)) == 0
    assert train(digits, tmp_path / "auto", "auto", **options) == 0


def test_members_judge_a_chosen_method_without_any(digits, tmp_path, frozen, capsys):
    options = {**frozen, "candidates": ["erm", "lff"], "folds": 2, "checkpoint_choice": "estimated"}
    assert train(digits, tmp_path / "out", "auto", **options) == 0
    assert "version 0.1" not in capsys.readouterr().out
    assert results(tmp_path / "out")["validation_judged_by"]["members"] == Members.load(tmp_path / "out").digest
    given = ["--model", tmp_path / "out", "--members", tmp_path / "out", "--dataset_name", digits]
    assert run_command("judge", list(map(str, given))) == 0


def test_callbacks_of_the_run_see_the_members_train(digits, tmp_path, frozen):
    """So that a signal saves a checkpoint there too."""
    trained = []

    class Seen(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            trained.append(Path(args.output_dir).name)

    run(*parse_run(words(digits, tmp_path / "out", "auto", **frozen, **CHOICE)), [Seen()])
    assert trained == ["selection", "out"]


def test_a_resumed_run_keeps_its_choice(digits, tmp_path, frozen, capsys):
    """Also where the folds are trained step by step, of which nothing is printed."""
    options = {**frozen, "candidates": ["erm", "product_of_experts"], "folds": 2, "accept_loss": 100}
    options |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}
    assert train(digits, tmp_path / "out", "auto", **options) == 0
    assert "train_runtime" not in capsys.readouterr().out
    before, found = weights(tmp_path / "out"), results(tmp_path / "out")["candidates"]
    killed_after(tmp_path / "out", 5)
    assert train(digits, tmp_path / "out", "auto", **options, resume_from_checkpoint="true") == 0
    assert "Judging" not in capsys.readouterr().out
    assert weights(tmp_path / "out") == before and results(tmp_path / "out")["candidates"] == found


def test_a_candidate_that_cannot_be_trained_is_left_out(digits, tmp_path, frozen, capsys):
    options = {**frozen, **CHOICE, "member_threshold": 0.9999, "member_steps": 2}
    assert train(digits, tmp_path / "out", "auto", **options) == 0
    assert "lff_be is not a candidate: the bias-amplified set is empty" in capsys.readouterr().out
    found = results(tmp_path / "out")["candidates"]["candidates"]
    assert [entry["name"] for entry in found] == [name for name in CHOICE["candidates"] if name != "lff_be"]
