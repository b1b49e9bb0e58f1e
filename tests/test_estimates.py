"""Accuracy by pseudo-groups, against sums by hand and naive loops; intervals that hold the truth; verdicts."""

import itertools

import numpy as np
import pytest

from hf_biasensemble.judging.estimates import estimated_intervals, estimates, group_means, p_value
from hf_biasensemble.judging.predictions import HeldOutPredictions, gain, pooled, true_class_probabilities
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
    return HeldOutPredictions(np.arange(len(groups)), said, probability, groups)


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


@pytest.mark.parametrize("images", [600, 3000])
@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.9])
def test_intervals_hold_the_truth(images, accuracy):
    """19 of 20 times, with as few as two dozen conflicting images."""
    inside = 0
    for seed in range(200):
        groups = drawn(seed, images=images, conflicting=0.04)
        model = predictions_of(groups, 0.95, accuracy, seed=seed + 1000)
        estimate = estimated_intervals(model.correct, groups)["conflicting"]
        inside += estimate.low <= accuracy <= estimate.high
    assert inside >= 186


@pytest.mark.parametrize("counts", [[6, 6], [2] * 6, [20, 2, 2, 2, 2, 2], [15, 1, 1, 1, 1, 1], [3] * 10])
def test_intervals_hold_the_truth_with_few_images_of_uneven_classes(counts):
    """Also where some classes are much easier than others."""
    random, inside = np.random.default_rng(0), 0
    labels = np.repeat(np.arange(len(counts)), counts)
    groups = groups_of(labels, (labels + 1) % len(counts), len(counts))
    for _ in range(400):
        accuracies = random.uniform(0.05, 0.95, len(counts))
        right = random.random(len(labels)) < accuracies[labels]
        estimate = estimated_intervals(right.astype(float), groups)["conflicting"]
        inside += estimate.low <= accuracies.mean() <= estimate.high
    assert inside >= 374


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
    worse = HeldOutPredictions(better.index, said, better.probabilities, groups)
    gained = gain([better], [worse])
    assert gained["conflicting"].low > 0
    assert gained["aligned"].value == gained["aligned"].low == gained["aligned"].high == 0
    assert better.intervals()["conflicting"].low < worse.intervals()["conflicting"].high
    assert verdict([better], [worse])[0] == "better" and verdict([worse], [better])[0] == "worse"
    assert verdict([worse], [worse]) == ("cannot tell", "the difference may be chance")


def naive_p_value(gained) -> float:
    """All signs, one by one."""
    sums = [abs(np.dot(signs, gained)) for signs in itertools.product([-1, 1], repeat=len(gained))]
    return np.mean(np.array(sums) >= abs(sum(gained)) - 1e-12)


def test_exact_test_counts_all_signs():
    random = np.random.default_rng(0)
    for _ in range(5):
        gained = random.choice([-1, 0, 1], 9) * random.choice([0.1, 0.5], 9)
        assert p_value(gained) == pytest.approx(naive_p_value(gained[gained != 0]) if gained.any() else 1)
    assert p_value(np.ones(6)) == pytest.approx(2 / 64) and p_value(np.ones(5)) == pytest.approx(2 / 32)
    many = random.choice([-1, 1], 1200, p=[0.48, 0.52]) / 1200  # normal from here on, as drawn signs confirm
    signs = random.choice([-1, 1], (4000, 1200))
    assert p_value(many) == pytest.approx((np.abs(signs @ many) >= abs(many.sum())).mean(), abs=0.03)


def one_group(counts) -> PseudoGroups:
    """60 images that follow the shortcut, and of each class so many that contradict it."""
    labels = np.concatenate([np.arange(60) % len(counts), np.repeat(np.arange(len(counts)), counts)])
    predicted = np.where(np.arange(len(labels)) < 60, labels, (labels + 1) % len(counts))
    return groups_of(labels, predicted, len(counts), left=0)


def right_at(groups: PseudoGroups, right) -> HeldOutPredictions:
    said = np.where(right, groups.labels, (groups.labels + 1) % groups.num_classes)
    return HeldOutPredictions(np.arange(len(groups)), said, right * 1.0, groups)


@pytest.mark.parametrize(
    ("counts", "accuracy"), [([10, 10], 0.5), ([3] * 4, 0.8), ([20, 2, 2, 2], 0.8), ([15] * 4, 0.5)]
)
def test_equal_models_are_rarely_told_apart(counts, accuracy):
    groups, random, false = one_group(counts), np.random.default_rng(2), 0
    for _ in range(200):
        pair = [right_at(groups, random.random(len(groups)) < accuracy) for _ in range(2)]
        found = gain(pair[:1], pair[1:])["conflicting"]
        false += not found.low <= 0 <= found.high
    assert false <= 16  # 10 expected at most


def test_seeds_are_no_further_images():
    """Two equal methods that err on images of their own, whatever the seed, are not told apart more often."""
    groups, random, false = one_group([5] * 6), np.random.default_rng(3), 0

    def seeds() -> list[HeldOutPredictions]:
        core = random.random(len(groups)) < 0.7
        again = [np.where(random.random(len(groups)) < 0.9, core, random.random(len(groups)) < 0.7) for _ in range(3)]
        return [right_at(groups, right) for right in again]

    for _ in range(200):
        found = gain(seeds(), seeds())["unbiased"]
        false += not found.low <= 0 <= found.high
    assert false <= 16


def test_classes_with_fewer_than_three_images_do_not_count_in_differences():
    groups = one_group([12, 2])
    nothing, all_right = np.zeros(len(groups), bool), np.ones(len(groups), bool)
    found = gain([right_at(groups, all_right)], [right_at(groups, nothing)])
    assert found["conflicting"].images == 12 and found["aligned"].images == 60
    few = one_group([2] * 6)
    pair = [right_at(few, all_right[: len(few)])], [right_at(few, nothing[: len(few)])]
    assert "conflicting" not in gain(*pair)
    answer, why = verdict(*pair)
    assert answer == "cannot tell" and ("no class has 3" in why)


def test_the_sentence():
    groups = drawn(1, images=4000)
    erm, debiased = predictions_of(groups, 0.99, 0.4), predictions_of(groups, 0.95, 0.9, seed=1)
    text = sentence(debiased, erm)
    assert text.startswith("Estimated without bias labels: ")
    ours, theirs = debiased.intervals()["conflicting"], erm.intervals()["conflicting"]
    assert f"{ours} on images that contradict the shortcut, ERM {theirs}; costs 4 points on the others." in text
    assert f"{100 * ours.value:.0f}% ({100 * ours.low:.0f}-{100 * ours.high:.0f})" == str(ours)
    assert "cannot tell which is better there: the difference may be chance" in sentence(
        erm, predictions_of(groups, 0.99, 0.4, seed=9), "lff"
    )
    others = HeldOutPredictions(erm.index + 1, erm.predictions, erm.probabilities, erm.groups)
    assert "ERM" not in sentence(debiased, others)  # about other images


def test_cost_in_words():
    groups = drawn(2, images=4000)
    model = predictions_of(groups, 0.9, 0.9)
    assert cost(gain([model], [predictions_of(groups, 0.99, 0.5)])["aligned"]).startswith("costs 9 points")
    assert cost(gain([predictions_of(groups, 0.99, 0.5)], [model])["aligned"]).startswith("gains 9 points")
    assert cost(gain([model], [model])["aligned"]) == "no clear difference on the others"


@pytest.mark.parametrize(
    "groups, reason",
    [
        (drawn(0, images=50, conflicting=0.1), f"at least {FEWEST_CONFLICTING} are needed"),
        (drawn(0, conflicting=0.7), "follow no shortcut"),
        (groups_of([], []), "no held-out images"),
        # Members that never predict the rare class: what they get wrong is that class.
        (groups_of([0] * 850 + [1] * 150, [0] * 1000, 2), "0% of the 150 held-out images of class 1"),
        (groups_of([0] * 950 + [1] * 50, [0] * 950 + [1] * 10 + [0] * 40, 2), "20% of the 50 held-out images"),
        # As on photographs whose members see more than the shortcut: what they get wrong is hard.
        (drawn(0, left=0.15), "a median probability of 15%"),
    ],
)
def test_says_when_it_cannot_tell_and_gives_no_number(groups, reason):
    model = predictions_of(groups, 0.9, 0.5)
    assert reason in str(reason_not_to_tell(model))
    assert model.estimates() == {} and model.intervals() == {} and gain([model], [model]) == {}
    assert "cannot tell" in sentence(model) and verdict([model], [model])[0] == "cannot tell"
    assert "% (" not in sentence(model)


def test_an_interval_of_half_of_all_that_is_possible_says_nothing():
    groups = drawn(7, images=60, conflicting=0.18)
    assert FEWEST_CONFLICTING <= groups.is_conflicting.sum() <= 13
    model = predictions_of(groups, 0.9, 0.5)
    assert "images that contradict the members may be anything from" in str(reason_not_to_tell(model))


def test_caution_where_a_model_errs_like_the_members():
    """As on mislabelled images, which every good model takes for what they are."""
    groups = drawn(4)
    said = np.where(np.random.default_rng(0).random(len(groups)) < 0.8, groups.predicted, groups.labels)
    follows = HeldOutPredictions(np.arange(len(groups)), said, np.ones(len(groups)), groups)
    assert "these images are mislabelled" in str(caution(follows))
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
        taken = (array[rows] for array in (whole.index, whole.predictions, whole.probabilities))
        parts.append(HeldOutPredictions(*taken, part))
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
