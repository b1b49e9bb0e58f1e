"""What stands on the audit page: words of the data as text, no more than fits, and when not to trust the list."""

import csv
from dataclasses import replace

import datasets
import numpy as np
import pytest
from audits import HOSTILE, Page, agreed, audit, listed, made, page_of, split_of
from synthetic import FEATURES, coloured_glyphs, write_parquet

from hf_biasensemble.reporting.audit.audit import PAGE_BUDGET, write_audit
from hf_biasensemble.reporting.audit.audit_page import confusions
from hf_biasensemble.reporting.audit.weak_signals import weak_signals

# What comes from the data stays text ---------------------------------------------------------------------------------


def test_names_with_html_are_shown_as_text(tmp_path):
    names = [HOSTILE, "<!--<script>", "a & b \"c\" 'd'", "</title><img src=x onerror=alert(1)>"]
    features = datasets.Features(FEATURES | {"label": datasets.ClassLabel(names=names)})
    features["bias_label"] = datasets.ClassLabel(names=names)
    columns = coloured_glyphs(96, 0.1, seed=0)
    file = 'it\'s "quoted", <b>bold</b> & {{ 7 * 6 }}.png'
    for image in columns["image"]:
        image["path"] = file
    data = tmp_path / 'data <i>"of" mine'
    write_parquet(data / "train.parquet", columns, features)
    assert audit(data, tmp_path / "out") == 0
    page = Page(tmp_path / "out" / "audit.html")
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert not {"img", "b", "i"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.data["class_names"] == names
    assert {row["label"] for row in page.rows} == {row["bias_label"] for row in page.rows} == set(names)
    assert {row["file"] for row in page.rows} == {file}
    assert [row[0] for row in page.table("By class")] == names
    assert page.text.count('Audit of data <i>"of" mine') == 2
    with open(tmp_path / "out" / "audit.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["file"] for row in rows} == {file} and {row["label"] for row in rows} == set(names)
    raw = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "<script>alert" not in raw and "<b>bold" not in raw and raw.count("</script>") == 2


def test_names_in_warnings_are_text(tmp_path):
    probability = np.r_[np.full(85, 0.8), np.full(915, 0.99)]
    selection = made(probability, labels=(np.arange(1000) >= 100).astype(int))
    page = page_of(tmp_path, selection, [f"{HOSTILE} <b>--x</b>", "other"])
    assert f"images of {HOSTILE} <b>--x</b>. For these classes" in page.text
    assert [tag for tag, _ in page.tags if tag in ("script", "b")] == ["script", "script"]


# Size ----------------------------------------------------------------------------------------------------------------


def test_page_is_below_20_mb_and_says_what_it_leaves_out(tmp_path):
    labels = np.arange(3000) % 2
    predictions = agreed(np.where(np.arange(3000) < 2900, labels, 1 - labels), 3)
    selection = made(np.linspace(0.01, 0.05, 3000), labels=labels, **predictions)
    page = page_of(tmp_path, selection, ["a", "b"], image_size=112)
    assert PAGE_BUDGET < page.size < 20_000_000  # noise does not compress: all of the budget is used
    views = page.data["views"]
    shown = views["hesitating"]["shown"]
    assert [page.rows[number]["index"] for number in shown] == list(range(len(shown)))
    assert 800 < len(shown) < 2900 and views["hesitating"]["total"] == 2900
    for view in ("contradicting", "errors"):  # far down in the list, but shown
        assert views[view]["total"] == len(views[view]["shown"]) == 100
    assert (
        f"100 of 100 images that contradict the members and {len(shown):,} of 2,900 that they hesitate about"
        in page.text
    )
    assert len(listed(tmp_path)) == 3000


def test_budget_of_a_page_with_many_classes(tmp_path):
    count = 12_000
    names = [f"class {number}" for number in range(3000)]
    # The most suspicious thousand are of one class, so that the others do not bring them along.
    labels = np.where(np.arange(count) < 1000, 0, np.arange(count) % 3000)
    selection = made(np.linspace(0.01, 0.99, count), labels=labels)
    page = page_of(tmp_path, selection, names, page_budget=1_000_000)
    assert page.size < 1_200_000
    assert len(page.data["typical"]) == len(page.data["flagged"]) == 3000
    assert len(page.data["views"]["hesitating"]["shown"]) > 100 and len(page.data["flagged"][1]) > 0
    assert len(page.table("By class")) == 200


def test_classes_of_few_images(tmp_path):
    selection = made([0.1, 0.2, 0.95], labels=[0, 1, 1])
    page = page_of(tmp_path, selection, ["a", "b", "none"])
    assert [[page.rows[n]["index"] for n in numbers] for numbers in page.data["typical"]] == [[], [2], []]
    assert [[page.rows[n]["index"] for n in numbers] for numbers in page.data["flagged"]] == [[0], [1], []]


# When not to trust it ------------------------------------------------------------------------------------------------


SOUND = np.r_[np.full(20, 0.1), np.full(980, 0.99)]
LABELS = np.arange(1000) % 2


def test_a_strong_signal_is_not_warned_of(tmp_path):
    predicted = np.where(SOUND > 0.5, LABELS, 1 - LABELS)
    selection = made(SOUND, **agreed(predicted, 3))
    assert weak_signals(selection, ["a", "b"]) == []
    assert "Can you trust the list?" in page_of(tmp_path, selection, ["a", "b"]).text


WEAK = {
    "all right": (made(np.full(1000, 0.99), **agreed(LABELS, 3)), "Hardly any image is flagged: 0 of 1,000"),
    "unsure": (
        made(np.r_[np.full(600, 0.8), np.full(400, 0.99)], **agreed(LABELS, 3)),
        "confident about only 40% of the images",
    ),
    "unsure of a class": (
        made(np.r_[np.full(85, 0.8), np.full(915, 0.99)], labels=(np.arange(1000) >= 100).astype(int)),
        "confident about less than 20% of the images of a.",
    ),
    "all wrong": (
        made(SOUND, **agreed(np.where(np.arange(1000) < 600, LABELS, 1 - LABELS), 3)),
        "right on 60% of the images; always predicting the most frequent class would be right on 50%",
    ),
    "disagreement": (
        made(SOUND, **agreed(LABELS, np.where(np.arange(1000) < 300, 2, 3))),
        "on 30% of the images they do not all predict the same class",
    ),
}


@pytest.mark.parametrize("case", WEAK)
def test_each_weak_signal_is_warned_of_alone(case, tmp_path):
    selection, words = WEAK[case]
    (warning,) = weak_signals(selection, ["a", "b"])
    assert words in warning
    page = page_of(tmp_path, selection, ["a", "b"])
    assert "Do not rely on this list" in page.text and words in page.text


def test_a_quota_flags_the_same_fraction_whatever_the_members_say():
    """There, only contradiction tells."""
    quota = {"provenance": {"num_members": 3, "member_keep": 0.8}}
    selected = np.arange(1000) >= 200
    predicted = np.where(np.arange(1000) < 20, 1 - LABELS, LABELS)
    assert weak_signals(made(SOUND, selected, **agreed(predicted, 3), **quota), ["a", "b"]) == []
    (warning,) = weak_signals(made(SOUND, selected, **agreed(LABELS, 3), **quota), ["a", "b"])
    assert warning.startswith("Hardly any image contradicts the members: 0 of 1,000")


def test_images_of_another_prediction_stand_apart_from_those_the_members_hesitate_about(tmp_path):
    probability = [0.3, 0.1, 0.2, 0.4, 0.99, 0.97, 0.98, 0.96]
    selection = made(probability, labels=np.zeros(8, dtype=int), **agreed([0, 0, 1, 1, 1, 0, 0, 0], 3))
    page = page_of(tmp_path, selection, ["a", "b"])
    views = {name: [page.rows[n]["index"] for n in view["shown"]] for name, view in page.data["views"].items()}
    assert (views["contradicting"], views["hesitating"]) == ([2, 3], [1, 0])  # image 4 is kept: it is in neither
    assert [page.rows[n]["index"] for n in page.data["flagged"][0]] == [2, 3, 1, 0]
    assert [page.rows[n]["index"] for n in page.data["typical"][0]] == [4, 6, 5, 7]
    assert page.data["flagged_totals"] == [4, 0] and "2 of the 4 flagged images contradict" in page.text


def test_confusions_are_named_from_ten_images_on(tmp_path):
    labels = np.zeros(100, dtype=int)
    predicted = np.r_[np.full(12, 1), np.full(10, 2), np.full(9, 3), np.zeros(69, dtype=int)]
    bias = np.r_[np.full(8, 2), np.full(92, 1)]
    probability = np.r_[np.full(31, 0.1), np.full(69, 0.99)]
    selection = made(probability, labels=labels, bias_labels=bias, **agreed(predicted, 3))
    split = replace(split_of(selection, list("abcd")), bias_names=["x", "y", "z"])
    first, second = confusions(selection, split)
    assert first == {"label": 0, "predicted": 1, "count": 12, "bias": "z", "bias_count": 8}
    assert second == {"label": 0, "predicted": 2, "count": 10, "bias": "y", "bias_count": 10}
    selection.save(tmp_path / "selection")
    page = Page(write_audit(tmp_path, split, "some/data"))
    assert "31 images contradict it , most often a predicted as b." in page.text
    assert "a predicted as c : 10 images" in page.text and "a predicted as d" not in page.text


def test_many_unsure_classes_are_not_all_named():
    names = [f"class {number}" for number in range(30)]
    probability = np.r_[np.full(20, 0.5), np.full(980, 0.99)]
    labels = np.r_[np.arange(20), np.resize(np.arange(20, 30), 980)]
    (warning,) = weak_signals(made(probability, labels=labels), names)
    assert "of class 0, class 1, " in warning and "class 9 and 10 more." in warning
