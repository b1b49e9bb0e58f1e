"""What stands on the audit page: words of the data as text, no more than fits, and when not to trust the list."""

import csv

import datasets
import numpy as np
import pytest
from audits import HOSTILE, Page, agreed, audit, listed, made, page_of
from synthetic import FEATURES, coloured_glyphs, write_parquet

from hf_biasensemble.reporting.audit.audit import PAGE_BUDGET
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
    assert page.data["class_names"] == page.data["bias_names"] == names
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
    assert f"images of {HOSTILE} <b>--x</b>. There" in page.text
    assert [tag for tag, _ in page.tags if tag in ("script", "b")] == ["script", "script"]


# Size ----------------------------------------------------------------------------------------------------------------


def test_page_is_below_20_mb_and_says_what_it_leaves_out(tmp_path):
    labels = np.arange(3000) % 2
    predictions = agreed(np.where(np.arange(3000) < 2900, labels, 1 - labels), 3)
    selection = made(np.linspace(0.01, 0.05, 3000), labels=labels, **predictions)
    page = page_of(tmp_path, selection, ["a", "b"], image_size=112)
    assert PAGE_BUDGET < page.size < 20_000_000  # noise does not compress: all of the budget is used
    shown = page.data["flagged"]["shown"]
    assert [page.rows[number]["index"] for number in shown] == list(range(len(shown)))
    assert 800 < len(shown) < 2900 and page.data["flagged"]["total"] == 3000
    assert page.data["errors"]["total"] == len(page.data["errors"]["shown"]) == 100  # far down in the list, but shown
    assert f"{len(shown):,} of 3,000 flagged images are on this page" in page.text
    assert len(listed(tmp_path)) == 3000


def test_budget_of_a_page_with_many_classes(tmp_path):
    count = 12_000
    names = [f"class {number}" for number in range(3000)]
    # The most suspicious thousand are of one class, so that the others do not bring them along.
    labels = np.where(np.arange(count) < 1000, 0, np.arange(count) % 3000)
    selection = made(np.linspace(0.01, 0.99, count), labels=labels)
    page = page_of(tmp_path, selection, names, page_budget=1_000_000)
    assert page.size < 1_200_000
    assert len(page.data["typical"]) == len(page.data["least_typical"]) == 3000
    assert len(page.data["flagged"]["shown"]) > 100 and len(page.data["typical"][1]) > 0
    assert len(page.table("By class")) == 200


def test_classes_of_few_images(tmp_path):
    selection = made([0.1, 0.2, 0.95], labels=[0, 1, 1])
    page = page_of(tmp_path, selection, ["a", "b", "none"])
    assert [[page.rows[n]["index"] for n in numbers] for numbers in page.data["typical"]] == [[0], [2], []]
    assert [[page.rows[n]["index"] for n in numbers] for numbers in page.data["least_typical"]] == [[0], [1], []]


# When not to trust it ------------------------------------------------------------------------------------------------


SOUND = np.r_[np.full(20, 0.1), np.full(980, 0.99)]
LABELS = np.arange(1000) % 2


def test_a_strong_signal_is_not_warned_of(tmp_path):
    predicted = np.where(SOUND > 0.5, LABELS, 1 - LABELS)
    selection = made(SOUND, **agreed(predicted, 3))
    assert weak_signals(selection, ["a", "b"]) == []
    assert "Can the list be trusted?" in page_of(tmp_path, selection, ["a", "b"]).text


WEAK = {
    "all right": (made(np.full(1000, 0.99), **agreed(LABELS, 3)), "Hardly any image is flagged: 0 of 1,000"),
    "unsure": (
        made(np.r_[np.full(600, 0.8), np.full(400, 0.99)], **agreed(LABELS, 3)),
        "confident about only 40 % of the images",
    ),
    "unsure of a class": (
        made(np.r_[np.full(85, 0.8), np.full(915, 0.99)], labels=(np.arange(1000) >= 100).astype(int)),
        "confident about less than 20 % of the images of a.",
    ),
    "all wrong": (
        made(SOUND, **agreed(np.where(np.arange(1000) < 600, LABELS, 1 - LABELS), 3)),
        "together they are right on 60 % of the images, and always naming the most frequent class would be on 50 %",
    ),
    "disagreement": (
        made(SOUND, **agreed(LABELS, np.where(np.arange(1000) < 300, 2, 3))),
        "on 30 % of the images they do not all predict the same class",
    ),
}


@pytest.mark.parametrize("case", WEAK)
def test_each_weak_signal_is_warned_of_alone(case, tmp_path):
    selection, words = WEAK[case]
    (warning,) = weak_signals(selection, ["a", "b"])
    assert words in warning
    page = page_of(tmp_path, selection, ["a", "b"])
    assert "Do not rely on this list" in page.text and words in page.text


def test_many_unsure_classes_are_not_all_named():
    names = [f"class {number}" for number in range(30)]
    probability = np.r_[np.full(20, 0.5), np.full(980, 0.99)]
    labels = np.r_[np.arange(20), np.resize(np.arange(20, 30), 980)]
    (warning,) = weak_signals(made(probability, labels=labels), names)
    assert "of class 0, class 1, " in warning and "class 9 and 10 more." in warning
