"""Many samples and many classes: nothing grows with samples times classes, or holds more than blocks of either."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from test_cost import Operators

from benchmarks.trainers import Setting, random_split, trainer
from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.held_out import hold_out, with_fold
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.data.reading.labels import numbers_of
from hf_biasensemble.data.reading.plan import plan_reading
from hf_biasensemble.data.store import features as stored_features
from hf_biasensemble.evaluation import classifier as evaluation
from hf_biasensemble.evaluation.classifier import evaluate_classifier
from hf_biasensemble.judging.estimates import estimated_intervals
from hf_biasensemble.judging.members import Members
from hf_biasensemble.judging.pseudo_groups import PseudoGroups
from hf_biasensemble.reporting.audit.audit import file_names, table_of
from hf_biasensemble.reporting.audit.audit_page import confusions, page_data
from hf_biasensemble.reporting.card.model_card import _counts
from hf_biasensemble.selection import Selection

SETTING = Setting(image_size=4)


def peak(work: Callable[[], object]) -> int:
    """Bytes that Python and numpy held at most, beyond what they held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def members_of(built, split: ImageSplit) -> Members:
    transform = image_transform(SETTING.model_args())
    return Members(built.model, SETTING.model_args(), transform, split.class_names, "")


# Logits --------------------------------------------------------------------------------------------------------------


def held_out(built, split: ImageSplit) -> object:
    return built.held_out_predictions("validation", split, built.model.members[0])


def evaluated(built, split: ImageSplit) -> object:
    return evaluate_classifier(built.model.members[0], split, image_transform(SETTING.model_args()), 8)


def members_evaluated(built, split: ImageSplit) -> object:
    return built.evaluate({"validation": split})


def judged(built, split: ImageSplit) -> object:
    return members_of(built, split).groups_of(split, 8)


@pytest.mark.parametrize("predict", [held_out, evaluated, members_evaluated, judged])
def test_predictions_of_more_images_need_no_larger_tensor_of_logits(monkeypatch, predict):
    monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", 1)  # a batch at a time

    def largest(samples: int) -> int:
        split = random_split(samples, 4)
        with trainer("members", random_split(64, 4), SETTING, 1, num_members=3) as built, Operators() as operators:
            predict(built, split)
        return operators.largest

    # What is left is a few numbers of each image; its logits are ten, of each member.
    assert largest(20_000) < 10 * 20_000


def test_predictions_in_blocks_are_those_at_once(monkeypatch):
    split = random_split(1_000, 4)
    with trainer("members", split, SETTING, 1, num_members=3) as built:
        at_once = [held_out(built, split), judged(built, split), evaluated(built, split)]
        monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", 1)
        in_blocks = [held_out(built, split), judged(built, split), evaluated(built, split)]
    assert at_once[2] == in_blocks[2]
    for one, other in zip(at_once[:2], in_blocks[:2], strict=True):
        for name in ("labels", "predictions", "probabilities", "predicted", "label_probability"):
            assert np.array_equal(getattr(one, name, None), getattr(other, name, None)), name


# Tables and lists ----------------------------------------------------------------------------------------------------


def test_intervals_of_many_classes_need_no_table_of_classes_squared():
    classes = 3_000
    labels = np.resize(np.arange(classes), 4 * classes)
    predicted = np.where(np.arange(len(labels)) % 10, labels, (labels + 1) % classes)
    groups = PseudoGroups(labels, predicted, np.zeros(len(labels), np.float32), classes)
    right = (np.arange(len(labels)) % 3 > 0).astype(np.float64)
    assert peak(lambda: estimated_intervals(right, groups)) < classes**2 / 2


class Counted(np.ndarray):
    """An array that counts the elements that comparisons and selections of it look at."""

    looked_at = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        plain = [np.asarray(each) for each in inputs]
        Counted.looked_at += max(each.size for each in plain)
        return getattr(ufunc, method)(*plain, **kwargs)


@pytest.mark.parametrize(
    "cut", [lambda splits: hold_out(splits, 0.1, 0.1, seed=0), lambda splits: with_fold(splits, 1, 5, seed=0)]
)
def test_splits_are_cut_without_a_pass_for_each_class(monkeypatch, cut):
    classes = 500
    labels = torch.arange(20 * classes) % classes
    names = [str(number) for number in range(classes)]
    train = ImageSplit(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, names, torch.arange(len(labels)))
    plain = torch.Tensor.numpy
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: plain(tensor).view(Counted))
    monkeypatch.setattr(Counted, "looked_at", 0)
    parts = cut({"train": train})
    assert Counted.looked_at < 20 * len(labels)
    assert sum(map(len, parts.values())) == len(labels) and len(parts["validation"]) >= len(labels) // 10


def test_mean_and_deviation_of_features_are_taken_a_few_rows_at_a_time(monkeypatch):
    features = torch.randn(5_000, 3, 8).half()
    features[:, 0, 5] = 2  # never changes
    rows = torch.randperm(5_000)[:4_321]
    monkeypatch.setattr(stored_features, "ROWS_OF_MEAN", 100)
    with Operators() as operators:
        mean, std = stored_features.mean_and_std(features, rows)
    assert operators.largest <= 100 * 3 * 8
    plain = features[:, 0][rows].double()
    expected = plain.std(dim=0, correction=0)
    expected[5] = 1
    torch.testing.assert_close(mean, plain.mean(dim=0).float())
    torch.testing.assert_close(std, expected.float())


def many_flagged(samples: int, classes: int) -> tuple[Selection, ImageSplit]:
    """All of them flagged, and predicted to be of any class."""
    random = np.random.default_rng(0)
    labels, predicted = (random.integers(0, classes, samples) for _ in range(2))
    probability = random.random(samples).astype(np.float32)
    few = np.zeros(samples, dtype=np.int64)
    selection = Selection(
        *(np.arange(samples), labels, few, probability, few.astype(bool), {"num_members": 5}),
        predicted_labels=predicted,
        agreeing_members=few,
        lowest_probability=probability,
    )
    pixels = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(samples, 3, 1, 1)
    names = [str(number) for number in range(classes)]
    return selection, ImageSplit(pixels, torch.from_numpy(labels), names, torch.arange(samples))


def test_page_of_many_flagged_images_lists_no_more_than_it_shows():
    selection, split = many_flagged(200_000, 10)
    order = np.argsort(selection.mean_probability)
    table = table_of(selection, split, "some/data")
    assert split.fingerprint  # once, so that it does not count

    def page() -> None:
        data = page_data(selection, split, table, order, order[:0], top_k=2, budget=20_000)
        views = data["views"]
        assert all(10 < len(views[name]["shown"]) < 200 for name in ("contradicting", "hesitating"))
        assert views["contradicting"]["total"] + views["hesitating"]["total"] == 200_000

    page()  # what is imported or looked up once does not count
    assert peak(page) < 24 * 200_000  # a list of Python numbers takes 40 bytes each, a dict of them 100


def test_confusions_of_many_classes_are_not_listed():
    selection, split = many_flagged(100_000, 1_000)
    selection.labels[:100], selection.predicted_labels[:100] = 3, 7

    def most_frequent() -> None:
        (found,) = confusions(selection, split)
        assert (found["label"], found["predicted"]) == (3, 7) and found["count"] >= 100

    assert peak(most_frequent) < 100 * 100_000


def test_card_does_not_write_out_counts_that_it_does_not_show():
    classes = 800
    labels = np.resize(np.arange(classes), 4 * classes)
    names = [str(number) for number in range(classes)]
    pixels = torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)
    split = ImageSplit(pixels, torch.from_numpy(labels), names, torch.arange(len(labels)), labels[::-1].copy())
    assert peak(lambda: _counts({"train": split})) < classes**2
    assert _counts({"train": split})["class_rows"] is None


def test_names_of_files_stay_in_arrow(tmp_path):
    folder = Path(tmp_path)
    paths = [*(str(folder / "a" / f"{number}.png") for number in range(50_000)), None, "elsewhere.png"]
    images = datasets.Dataset(pa.table({"image": pa.array([{"bytes": b"", "path": path} for path in paths])}))
    images = images.cast_column("image", datasets.Image(decode=False))
    rows = torch.tensor([*range(50_000), 50_001, 50_000])
    split = ImageSplit(torch.empty(0), torch.empty(0), [], rows, images=images)
    names = []
    assert peak(lambda: names.append(file_names(split, str(folder)))) < 20 * 50_000
    assert names[0].to_pylist()[:2] == ["a/0.png", "a/1.png"]
    assert names[0].to_pylist()[-2:] == ["elsewhere.png", None]


def test_a_folder_of_many_files_is_opened_without_an_object_for_each(tmp_path):
    count = 4_000
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(count // 2):
            (tmp_path / name / f"{number:06}.png").touch()
    found = []
    assert peak(lambda: found.append(plan_reading(DataArguments(str(tmp_path))).data)) < 800 * count
    (split,) = found[0].values()
    paths = split.cast_column("image", datasets.Image(decode=False)).flatten()["image.path"][:]
    assert paths == [str(file) for file in sorted(tmp_path.rglob("*.png"))]
    assert split["label"][:] == ["ant"] * (count // 2) + ["bee"] * (count // 2)


def test_classes_as_text_are_numbered_without_an_object_for_each():
    count, names = 100_000, ["ant", "bee"]
    data = datasets.Dataset(pa.table({"label": pa.array(names * (count // 2))}))
    found = []
    assert peak(lambda: found.append(numbers_of(data, "label", names, "here"))) < 40 * count
    assert found[0].tolist() == [0, 1] * (count // 2)
