"""Accuracy by group against tables worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from worked_out import BIAS_LABELS, EXPECTED, LABELS, PREDICTIONS

from hf_biasensemble.evaluation.accuracy import METRICS, accuracy_intervals, bias_accuracy
from hf_biasensemble.evaluation.classifier import to_classes_of


def test_all_metrics_of_a_hand_computed_table():
    metrics = bias_accuracy(PREDICTIONS, LABELS, BIAS_LABELS, LABELS != BIAS_LABELS)
    assert metrics == pytest.approx(EXPECTED)
    assert set(metrics) == set(METRICS)
    assert all(type(value) is float for value in metrics.values())


def test_only_is_conflicting_is_known():
    # cells of (label, conflicting): (0, no) 2 of 3, (0, yes) 0 of 1, (1, no) 2 of 2, (1, yes) 1 of 2
    metrics = bias_accuracy(PREDICTIONS, LABELS, None, LABELS != BIAS_LABELS)
    assert metrics["aligned_accuracy"] == pytest.approx(4 / 5)
    assert metrics["unbiased_accuracy"] == pytest.approx((2 / 3 + 0 + 1 + 1 / 2) / 4)
    assert set(metrics) == set(METRICS)


def test_only_bias_labels_are_known():
    labels, bias_labels = np.array([0, 0, 1, 1]), np.array([0, 2, 0, 2])
    metrics = bias_accuracy(np.array([0, 1, 1, 1]), labels, bias_labels)
    assert metrics == {"accuracy": 0.75, "unbiased_accuracy": 0.75, "worst_group_accuracy": 0.0}


def test_nothing_is_known_of_the_bias():
    assert bias_accuracy(np.array([0, 1, 1]), np.array([0, 1, 0])) == {"accuracy": pytest.approx(2 / 3)}


@pytest.mark.parametrize("conflicting", [True, False])
def test_absent_group_is_left_out_and_not_zero(conflicting):
    labels = np.array([0, 1, 1])
    bias_labels = 1 - labels if conflicting else labels
    metrics = bias_accuracy(np.array([0, 1, 0]), labels, bias_labels, np.full(3, conflicting))
    present, absent = ("conflicting", "aligned") if conflicting else ("aligned", "conflicting")
    assert metrics[f"{present}_accuracy"] == pytest.approx(2 / 3)
    assert f"{absent}_accuracy" not in metrics
    assert "ac_score" not in metrics
    assert metrics["unbiased_accuracy"] == pytest.approx(3 / 4)  # the two empty cells do not count
    assert metrics["worst_group_accuracy"] == pytest.approx(1 / 2)


def test_unbiased_accuracy_does_not_follow_the_sizes_of_the_groups():
    labels = np.array([0] * 90 + [1] * 10)
    bias_labels = np.zeros(100, dtype=int)
    assert bias_accuracy(np.zeros(100), labels, bias_labels)["unbiased_accuracy"] == 0.5


@pytest.mark.parametrize(
    "aligned, conflicting, score", [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.5, 2 / 3)]
)
def test_ac_score_is_the_harmonic_mean(aligned, conflicting, score):
    labels = np.zeros(8, dtype=int)
    is_conflicting = np.arange(8) >= 4
    right = np.concatenate([np.arange(4) < 4 * aligned, np.arange(4) < 4 * conflicting])
    assert bias_accuracy(np.where(right, 0, 1), labels, None, is_conflicting)["ac_score"] == pytest.approx(score)


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="above 0"):
        bias_accuracy(np.array([]), np.array([]))


def test_unequal_lengths_are_an_error():
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        bias_accuracy(np.zeros(3), np.zeros(3), np.zeros(2))


def test_samples_of_unknown_bias_count_in_no_group():
    predictions, labels = np.array([0, 1, 1, 1, 0]), np.array([0, 0, 1, 1, 1])
    bias_labels, is_conflicting = np.array([0, 1, 0, 1, -1]), np.array([False, True, True, False, False])
    known = slice(0, 4)
    whole = bias_accuracy(predictions, labels, bias_labels, is_conflicting)
    part = bias_accuracy(predictions[known], labels[known], bias_labels[known], is_conflicting[known])
    assert whole.pop("accuracy") == 0.6 and part.pop("accuracy") == 0.75
    assert whole == part and whole["aligned_accuracy"] == 1
    intervals = accuracy_intervals(predictions, labels, bias_labels, is_conflicting)
    expected = accuracy_intervals(predictions[known], labels[known], bias_labels[known], is_conflicting[known])
    assert intervals.pop("accuracy") != expected.pop("accuracy") and intervals == expected


def test_logits_are_in_the_order_of_the_data_and_only_copied_if_that_of_the_model_differs():
    split = SimpleNamespace(class_names=["ant", "owl", "elk"])
    config = SimpleNamespace(num_labels=3, id2label=dict(enumerate(split.class_names)))
    logits = torch.arange(6.0).reshape(2, 3)
    assert to_classes_of(split, SimpleNamespace(config=config), logits) is logits
    config.id2label = {0: "elk", 1: "ant", 2: "owl"}
    assert torch.equal(to_classes_of(split, SimpleNamespace(config=config), logits), logits[:, [1, 2, 0]])


def test_the_order_of_many_classes_is_found_without_comparing_all_pairs():
    class Name(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str(self) == other

    names = [f"class {number}" for number in range(300)]
    split = SimpleNamespace(class_names=list(map(Name, names)))
    config = SimpleNamespace(num_labels=300, id2label=dict(enumerate(reversed(names))))
    logits = torch.arange(300.0)[None]
    found = to_classes_of(split, SimpleNamespace(config=config), logits)
    assert torch.equal(found, logits.flip(1)) and Name.compared < 10 * 300
