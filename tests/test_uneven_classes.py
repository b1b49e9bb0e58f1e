"""Classes of very different sizes, without a shortcut: members, set, group methods and judge are not fooled."""

import numpy as np
import pytest
import torch
from runs import error_line, results, selection_inputs, train
from synthetic import png, write_parquet

from hf_biasensemble.data.batches.member_batches import MemberBatches
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.judging.pseudo_groups import PseudoGroups
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Two patterns in noise, 19 images of one for each of the other."""
    random = np.random.default_rng(0)
    pattern = random.normal(0, 1, (2, 28, 28, 1))
    folder = tmp_path_factory.mktemp("uneven")
    for split, sizes in (("train", (380, 20)), ("validation", (190, 10)), ("test", (20, 20))):
        labels = np.repeat([0, 1], sizes)
        noise = random.normal(0, 60, (len(labels), 28, 28, 3))
        strength = 8 + 8 * random.random((len(labels), 1, 1, 1))
        pixels = np.clip(128 + strength * pattern[labels] + noise, 0, 255).astype(np.uint8)
        images = [{"bytes": png(image), "path": f"{number}.png"} for number, image in enumerate(pixels)]
        write_parquet(folder / f"{split}.parquet", {"image": images, "label": labels.tolist()}, features())
    return folder


def features():
    import datasets

    return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["many", "few"])})


def right_of_each_class(made: Selection) -> list[float]:
    return [float(np.mean(made.predicted_labels[made.labels == label] == label)) for label in (0, 1)]


def members(uneven, folder, **changes) -> Selection:
    inputs = selection_inputs(uneven, folder, member_steps=60, **changes)
    return make_selection(*inputs, must_serve=False)[0]


def test_members_learn_both_classes_and_without_balance_only_the_large_one(uneven, tmp_path):
    many, few = right_of_each_class(members(uneven, tmp_path / "default"))
    assert many > 0.9 and few > 0.9
    assert right_of_each_class(members(uneven, tmp_path / "off", balance_members="false"))[1] < 0.5


def test_balanced_batches_hold_all_samples_and_each_class_equally_often():
    labels = torch.tensor([0] * 30 + [1] * 7 + [2])
    split = ImageSplit(torch.zeros(38, 3, 1, 1, dtype=torch.uint8), labels, ["a", "b", "c"], torch.arange(38))
    orders = MemberBatches.shuffled(split, 2, seed=1).balanced(seed=1).order
    assert not torch.equal(*orders)
    for order in orders:
        assert torch.bincount(labels[order]).tolist() == [30, 30, 30]
        times = torch.bincount(order)
        assert (times[:30] == 1).all() and set(times[30:37].tolist()) == {4, 5} and times[37] == 30


def test_balanced_halves_share_no_sample_though_one_lacks_a_class():
    labels = torch.tensor([0] * 30 + [1] * 8 + [2])
    split = ImageSplit(torch.zeros(39, 3, 1, 1, dtype=torch.uint8), labels, ["a", "b", "c"], torch.arange(39))
    plain, trained_on = MemberBatches.cross_fitted(split, 2, seed=1)
    orders = plain.balanced(seed=1).order
    assert orders.shape == (4, 30)  # as long as the half that lacks the third class
    for member in range(2):
        first, second = orders[member], orders[member + 2]
        assert trained_on[first, member].all() and not trained_on[second, member].any()
        lacking = first if (labels[first] < 2).all() else second
        assert torch.bincount(labels[lacking]).tolist() == [15, 15]


@pytest.mark.parametrize("method", ["group_dro_be", "last_layer_be"])
def test_group_methods_need_no_bias_amplified_set(digits, tmp_path, method):
    empty = {"member_threshold": 0.9999, "member_steps": 1, "max_steps": 2}
    assert train(digits, tmp_path / "out", method, **empty) == 0
    assert results(tmp_path / "out")["selection_size"] == 0


def test_a_lacking_class_is_refused_with_the_option_that_keeps_some_of_each(uneven, tmp_path, capsys):
    given = {"balance_members": "false", "member_threshold": 0.97, "max_steps": 2}
    assert train(uneven, tmp_path / "out", "lff_be", **given) == 2
    assert "--member_keep 0.8" in error_line(capsys)
    assert train(uneven, tmp_path / "out", "lff_be", **given, member_keep=0.8) == 0
    made = Selection.load(tmp_path / "out" / "selection")
    assert np.bincount(made.labels[made.is_selected]).tolist() == [304, 16]


def test_members_that_give_a_class_up_judge_nobody():
    labels = np.repeat([0, 1], [425, 75])
    sure = np.full(500, 0.001, dtype=np.float32)
    given_up = PseudoGroups(labels, np.zeros(500, dtype=np.int64), sure, 2, "m")
    assert "only 0% of the 75 held-out images of class 1" in given_up.doubt()
    assert "--balance_members true" in given_up.doubt()
    predicted = labels.copy()
    predicted[[*range(40), *range(425, 445)]] ^= 1  # 73% of the small class
    assert PseudoGroups(labels, predicted, sure, 2, "m").doubt() is None
