"""Accuracy by pseudo-groups, against sums by hand and naive loops; intervals that hold the truth; verdicts."""

import numpy as np
import pytest

from hf_biasensemble.judging.estimates import difference, estimated_intervals, estimates, group_means
from hf_biasensemble.judging.predictions import HeldOutPredictions, pooled, true_class_probabilities
from hf_biasensemble.judging.pseudo_groups import FEWEST_CONFLICTING, PseudoGroups
from hf_biasensemble.judging.verdict import caution, cost, reason_not_to_tell, sentence, verdict


def groups_of(labels, predicted, num_classes: int = 3, left: float = 0.001) -> PseudoGroups:
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    return PseudoGroups(labels, predicted, np.full(len(labels), left, dtype=np.float32), num_classes, "m")


def drawn(seed: int, images: int = 400, conflicting: float = 0.2, classes: int = 4, left: float = 0.001):
    """Labels, and what members take the images for, who leave the class itself this probability."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=images)
    other = (labels + random.integers(1, classes, size=images)) % classes
    return groups_of(labels, np.where(random.random(images) < conflicting, other, labels), classes, left)


def predictions_of(groups: PseudoGroups, aligned: float, conflicting: float, seed: int = 0) -> HeldOutPredictions:
    """A model that is right with these probabilities, and else says the next class."""
    random = np.random.default_rng(seed)
    right = random.random(len(groups)) < np.where(groups.is_conflicting, conflicting, aligned)
    said = np.where(right, groups.labels, (groups.labels + 1) % groups.num_classes)
    probability = np.where(right, 0.8, 0.1).astype(np.float32)
    return HeldOutPredictions(np.arange(len(groups)), groups.labels, said, probability, groups.num_classes, groups)


def test_means_by_hand():
    groups = groups_of([0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 0, 2, 0, 1])
    values = np.array([1, 0, 1, 1, 0, 1, 1, 0.0])
    # Aligned: class 0 has 1 and 0, class 1 has 1, class 2 has 1. Conflicting: 1; 0; 1 and 0.
    assert group_means(values, groups) == pytest.approx(
        {"aligned": 2.5 / 3, "conflicting": 0.5, "unbiased": 2.5 / 9 + 2 / 3 * 0.5}
    )


def test_a_group_without_images_is_left_out():
    assert set(group_means(np.ones(2), groups_of([0, 1], [0, 1]))) == {"aligned"}
    assert set(group_means(np.ones(2), groups_of([0, 1], [1, 0]))) == {"conflicting"}


def test_estimates_of_accuracy_and_of_probability():
    groups = groups_of([0, 1, 2, 0], [0, 1, 2, 1])
    found = estimates(np.array([0.9, 0.2, 0.6, 0.4]), np.array([0, 0, 2, 0]), groups)
    assert found["estimated_aligned_accuracy"] == pytest.approx(2 / 3)
    assert found["estimated_aligned_probability"] == pytest.approx(1.7 / 3)
    assert found["estimated_conflicting_accuracy"] == 1
    assert found["estimated_unbiased_probability"] == pytest.approx(1.7 / 9 + 2 / 3 * 0.4)


@pytest.mark.parametrize("value", ["accuracy", "probability"])
def test_bootstrap_is_that_of_drawing_images(value):
    """Against drawing the images of each group with replacement, one after another."""
    groups = drawn(3)
    model = predictions_of(groups, 0.9, 0.6)
    values = model.correct if value == "accuracy" else np.random.default_rng(8).random(len(groups)).round(2)
    random, means = np.random.default_rng(1), []
    parts = [np.flatnonzero(groups.is_conflicting == side) for side in (False, True)]
    for _ in range(3000):
        chosen = np.concatenate([random.choice(part, len(part)) for part in parts])
        again = groups_of(groups.labels[chosen], groups.predicted[chosen], groups.num_classes)
        means.append(group_means(values[chosen], again))
    found = estimated_intervals(values, groups, resamples=3000)
    for name in ("aligned", "conflicting", "unbiased"):
        low, high = np.quantile([mean[name] for mean in means], [0.025, 0.975])
        # Never narrower than Wilson's, which is that of values 0 and 1.
        slack = 0.02 if value == "accuracy" else 0.06
        assert low - slack < found[name].low < low + 0.01 and high - 0.01 < found[name].high < high + slack
        assert found[name].value == pytest.approx(group_means(values, groups)[name])


@pytest.mark.parametrize("images", [600, 3000])
@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.9])
def test_intervals_hold_the_truth(images, accuracy):
    """19 of 20 times, with as few as two dozen conflicting images."""
    inside = 0
    for seed in range(200):
        groups = drawn(seed, images=images, conflicting=0.04)
        model = predictions_of(groups, 0.95, accuracy, seed=seed + 1000)
        estimate = estimated_intervals(model.correct, groups, resamples=300)["conflicting"]
        inside += estimate.low <= accuracy <= estimate.high
    assert inside >= 182


def test_interval_has_width_where_all_images_are_right():
    groups = drawn(0)
    found = estimated_intervals(np.ones(len(groups)), groups)
    assert found["conflicting"].value == found["conflicting"].high == 1 and 0.9 < found["conflicting"].low < 0.98
    assert found["unbiased"].low < 0.99


def test_difference_is_paired():
    """Two models that err on the same images but for a few differ clearly, though their intervals overlap."""
    groups = drawn(5)
    better = predictions_of(groups, 0.9, 0.6)
    some = np.flatnonzero(groups.is_conflicting & (better.correct == 1))[:12]
    said = better.predictions.copy()
    said[some] = groups.predicted[some]
    worse = HeldOutPredictions(better.index, better.labels, said, better.probabilities, 4, groups)
    gain = difference(better.correct, worse.correct, groups)
    assert gain["conflicting"].low > 0 and gain["aligned"].value == gain["aligned"].low == gain["aligned"].high == 0
    assert better.intervals()["conflicting"].low < worse.intervals()["conflicting"].high
    assert verdict(better, worse)[0] == "better" and verdict(worse, better)[0] == "worse"
    assert verdict(worse, worse) == ("cannot tell", "the difference may be chance")


def test_the_sentence():
    groups = drawn(1, images=4000)
    erm, debiased = predictions_of(groups, 0.99, 0.4), predictions_of(groups, 0.95, 0.9, seed=1)
    text = sentence(debiased, erm)
    assert text.startswith("Estimated without bias labels: ")
    ours, theirs = debiased.intervals()["conflicting"], erm.intervals()["conflicting"]
    assert f"{ours} on images that contradict the shortcut, ERM {theirs}; costs 4 points on the others." in text
    assert f"{100 * ours.value:.0f} % ({100 * ours.low:.0f}-{100 * ours.high:.0f})" == str(ours)
    assert "cannot tell which is better there: the difference may be chance" in sentence(
        erm, predictions_of(groups, 0.99, 0.4, seed=9), "lff"
    )
    others = HeldOutPredictions(erm.index + 1, erm.labels, erm.predictions, erm.probabilities, 4)
    assert "ERM" not in sentence(debiased, others)  # about other images


def test_cost_in_words():
    groups = drawn(2, images=4000)
    model = predictions_of(groups, 0.9, 0.9)
    assert cost(model.gain_over(predictions_of(groups, 0.99, 0.5))["aligned"]).startswith("costs 9 points")
    assert cost(predictions_of(groups, 0.99, 0.5).gain_over(model)["aligned"]).startswith("gains 9 points")
    assert cost(model.gain_over(model)["aligned"]) == "no clear difference on the others"


@pytest.mark.parametrize(
    "groups, reason",
    [
        (drawn(0, images=50, conflicting=0.1), f"at least {FEWEST_CONFLICTING} are needed"),
        (drawn(0, conflicting=0.7), "follow no shortcut"),
        (groups_of([], []), "no held-out images"),
        # As on photographs whose members see more than the shortcut: what they get wrong is hard.
        (drawn(0, left=0.15), "a median probability of 15 %"),
    ],
)
def test_says_when_it_cannot_tell_and_gives_no_number(groups, reason):
    model = predictions_of(groups, 0.9, 0.5)
    assert reason in str(reason_not_to_tell(model))
    assert model.estimates() == {} and model.intervals() == {} and model.gain_over(model) == {}
    assert "cannot tell" in sentence(model) and verdict(model, model)[0] == "cannot tell"
    assert "% (" not in sentence(model)


def test_an_interval_of_half_of_all_that_is_possible_says_nothing():
    groups = drawn(7, images=60, conflicting=0.18)
    assert FEWEST_CONFLICTING <= groups.is_conflicting.sum() <= 13
    model = predictions_of(groups, 0.9, 0.5)
    assert "leave accuracy on them open between" in str(reason_not_to_tell(model))


def test_caution_where_a_model_errs_like_the_members():
    """As on mislabelled images, which every good model takes for what they are."""
    groups = drawn(4)
    said = np.where(np.random.default_rng(0).random(len(groups)) < 0.8, groups.predicted, groups.labels)
    follows = HeldOutPredictions(np.arange(len(groups)), groups.labels, said, np.ones(len(groups)), 4, groups)
    assert "labels of these images are wrong" in str(caution(follows))
    assert caution(predictions_of(groups, 0.9, 0.9)) is None


def test_table_of_predictions_comes_back(tmp_path):
    groups = drawn(6)
    model = predictions_of(groups, 0.9, 0.5)
    model.save(tmp_path, "validation")
    back = HeldOutPredictions.load(tmp_path, "validation")
    assert back.estimates() == model.estimates() and back.groups.digest == groups.digest
    assert back.groups.members == "m" and back.is_about(model)


def test_folds_are_one_table():
    groups = drawn(6)
    whole = predictions_of(groups, 0.9, 0.5)
    parts = []
    for rows in (np.arange(0, 150), np.arange(150, 400)):
        part = PseudoGroups(
            groups.labels[rows], groups.predicted[rows], groups.label_probability[rows], 4, f"{len(rows)}"
        )
        taken = (array[rows] for array in (whole.index, whole.labels, whole.predictions, whole.probabilities))
        parts.append(HeldOutPredictions(*taken, 4, part))
    assert pooled(parts).estimates() == whole.estimates() and pooled(parts).is_about(whole)


def test_hesitation_is_about_the_images_that_contradict_the_members():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.99, 0.01], [0.3, 0.7]])
    groups = PseudoGroups.from_probabilities(probabilities, np.array([0, 1, 1, 1]))
    assert groups.is_conflicting.tolist() == [False, True, True, False]
    assert groups.label_probability == pytest.approx([0.9, 0.2, 0.01, 0.7])
    assert groups.hesitation == pytest.approx(0.105)


def test_probability_of_the_true_class():
    logits = np.array([[0.0, np.log(3.0)], [900.0, 0.0]])
    assert true_class_probabilities(logits, np.array([1, 1])) == pytest.approx([0.75, 0.0])
