"""Logit adjustment and product of experts through their real trainers, against a naive loop of each."""

import math
from dataclasses import replace

import numpy as np
import pytest
import test_pseudo_group_methods as loops
import torch
from runs import error_line, train
from synthetic import CLASS_NAMES
from test_pseudo_group_methods import adam_steps, assert_same, recorded_run, selection_of

from hf_biasensemble import selection as selections
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers import bias_ensemble

K = 3


def soft_selection(split) -> Selection:
    """Probabilities that are highest for what the members predict."""
    made = selection_of(split)
    draws = np.random.default_rng(8).dirichlet(np.full(K, 0.4), len(made.labels)) + np.eye(K)[made.predicted_labels]
    return replace(made, probabilities=(draws / draws.sum(axis=1, keepdims=True)).astype(np.float16))


def counted(made: Selection) -> list[list[float]]:
    """P(y | s), by a loop, each cell counted once more."""
    table = [[1.0] * K for _ in range(K)]
    for predicted, label in zip(made.predicted_labels, made.labels, strict=True):
        table[predicted][label] += 1
    return [[cell / sum(row) for cell in row] for row in table]


def naive_prior(made: Selection, row: int, method: str, options: dict) -> list[float]:
    table, p = counted(made), made.probabilities[row].astype(float).tolist()
    if method == "product_of_experts":
        return [math.log(max(each, 0.001)) for each in p]
    if options.get("adjustment", "hard") == "hard":
        return [math.log(each) for each in table[made.predicted_labels[row]]]
    return [math.log(sum(p[s] * table[s][y] for s in range(K))) for y in range(K)]


@pytest.mark.parametrize(
    "method, options",
    [
        ("logit_adjusted", {}),
        ("logit_adjusted", {"adjustment": "soft", "adjustment_tau": 1.5}),
        ("product_of_experts", {"adjustment_tau": 0.5}),
    ],
)
def test_what_members_predict_is_added_to_the_logits(tmp_path, monkeypatch, method, options):
    monkeypatch.setattr(loops, "selection_of", soft_selection)
    before, trainer, batches, losses, made = recorded_run(method, tmp_path, **options)
    tau = options.get("adjustment_tau", 1.0)

    def loss_of(batch):
        terms = []
        for image, label, row in zip(*(batch[name] for name in ("pixel_values", "labels", "index")), strict=True):
            scores = list(before(image[None]).logits[0])
            prior = naive_prior(made, int(row), method, options)
            scores = [score + tau * each for score, each in zip(scores, prior, strict=True)]
            terms.append(torch.log(torch.stack(scores).exp().sum()) - scores[int(label)])
        return torch.stack(terms).mean()

    naive_losses = adam_steps(before.parameters(), batches, loss_of)
    assert_same(trainer.model, before, losses, naive_losses)


def test_without_a_factor_it_is_erm(tmp_path, monkeypatch):
    monkeypatch.setattr(loops, "selection_of", soft_selection)
    adjusted = recorded_run("product_of_experts", tmp_path / "a", adjustment_tau=0.0)
    assert adjusted[3] == recorded_run("logit_adjusted", tmp_path / "b", adjustment_tau=0.0)[3]
    assert adjusted[3] != recorded_run("product_of_experts", tmp_path / "c")[3]


def test_the_most_probable_classes_stand_for_all(tmp_path, monkeypatch):
    """Of two of three classes, the third is known as well."""

    def top_of(split) -> Selection:
        made = soft_selection(split)
        classes = np.argsort(-made.probabilities, axis=1, kind="stable")[:, :2].astype(np.int32)
        top = np.take_along_axis(made.probabilities, classes, axis=1)
        return replace(made, probabilities=top, probability_classes=classes)

    found = []
    for number, make in enumerate((soft_selection, top_of)):
        monkeypatch.setattr(loops, "selection_of", make)
        _, trainer, *_ = recorded_run("logit_adjusted", tmp_path / str(number))
        found.append(trainer.member_probabilities(torch.arange(20)))
    torch.testing.assert_close(*found, atol=2e-3, rtol=0)  # float16
    torch.testing.assert_close(found[1].sum(dim=1), torch.ones(20), atol=1e-3, rtol=0)


def test_of_many_classes_the_selection_keeps_the_most_probable(digits, tmp_path, monkeypatch):
    assert train(digits, tmp_path / "all", "logit_adjusted", max_steps=2) == 0
    for module in (selections, bias_ensemble):
        monkeypatch.setattr(module, "DENSE_CLASSES", 3)
        monkeypatch.setattr(module, "TOP_CLASSES", 2)
    assert train(digits, tmp_path / "top", "logit_adjusted", max_steps=2) == 0
    dense, top = (Selection.load(tmp_path / name / "selection") for name in ("all", "top"))
    assert dense.probabilities.shape == (96, len(CLASS_NAMES)) and dense.probabilities.dtype == np.float16
    assert dense.probability_classes is None and top.probabilities.shape == (96, 2)
    expected = np.take_along_axis(dense.probabilities, top.probability_classes.astype(np.int64), axis=1)
    assert np.array_equal(top.probabilities, expected)
    assert np.array_equal(top.probabilities[:, 0], dense.probabilities.max(axis=1))
    own = dense.probabilities[np.arange(96), dense.labels].astype(np.float32)
    assert np.allclose(own, dense.mean_probability, atol=1e-3)


def test_an_older_selection_still_opens_and_is_refused_by_name(copy_of, digits, tmp_path, capsys):
    folder = copy_of("logit_adjusted")
    replace(Selection.load(folder / "selection"), probabilities=None).save(folder / "selection")
    assert Selection.load(folder / "selection").probabilities is None
    shared = {"selection_dir": folder / "selection"}
    assert train(digits, tmp_path / "out", "logit_adjusted", **shared) == 2
    assert "--method logit_adjusted: expected a selection that says how probable" in error_line(capsys)
    assert train(digits, tmp_path / "lff", "lff_be", **shared) == 0


def test_members_that_saw_the_images_are_named(digits, tmp_path, capsys):
    told = []
    for cross_fit in ("false", "true"):
        options = {"max_steps": 2, "cross_fit": cross_fit}
        assert train(digits, tmp_path / cross_fit, "product_of_experts", **options) == 0
        told.append(
            "note: the members were trained on the images whose classes they predict" in capsys.readouterr().out
        )
    assert told == [True, False]


def test_members_that_hardly_an_image_contradicts_are_named(digits, tmp_path, capsys):
    shared = tmp_path / "shared"
    options = {"max_steps": 2, "selection_dir": shared}
    told = []
    for name in ("as they are", "all right"):
        assert train(digits, tmp_path / name, "logit_adjusted", **options) == 0
        told.append("what they know leaves the classifier hardly anything to learn" in capsys.readouterr().out)
        made = Selection.load(shared)
        replace(made, predicted_labels=made.labels).save(shared)
    assert told == [False, True]
