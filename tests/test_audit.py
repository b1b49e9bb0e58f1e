"""The audit: numbers, lists and words of the page, against the selection that it shows."""

import base64
import csv
import io
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from runs import SETTINGS, error_line, train
from synthetic import CLASS_NAMES, FEATURES, coloured_digits, coloured_glyphs, png, write_parquet

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.reporting.audit import PAGE_BUDGET, possible_label_errors, suspicion_order, write_audit
from hf_biasensemble.reporting.weak_signals import weak_signals
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.bias_ensemble import _predictions

HOSTILE = "<script>alert(1)</script>"
BIAS_COLUMNS = {"bias_label", "is_conflicting"}


def audit(data: Path, output_dir: Path, **changes) -> int:
    settings = {"dataset_name": data, "output_dir": output_dir, **SETTINGS, **changes}
    return run_command("audit", [word for name, value in settings.items() for word in (f"--{name}", str(value))])


class Page(HTMLParser):
    """The page as a browser would take it apart: its tags, its tables by caption, its text, and the data block."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.size = file.stat().st_size
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join(" ".join(self.words).split())
        self.data = json.loads(self.scripts[0])
        self.rows = [dict(zip(self.data["columns"], row, strict=True)) for row in self.data["rows"]]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "br", "img", "input"):
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, text):
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts[-1] += text
        elif inside != "style":
            self.words.append(text)
            if inside == "caption":
                self._caption += text
            elif "td" in self._open or "th" in self._open:
                self._rows[-1][-1] += text

    def table(self, start: str) -> list[list[str]]:
        """The rows below the header of the one table whose caption begins so, without empty cells."""
        (rows,) = [rows for caption, rows in self.tables.items() if caption.strip().startswith(start)]
        return [[cell.strip() for cell in row if cell.strip()] for row in rows[1:]]


@pytest.fixture(scope="module")
def audited(digits, tmp_path_factory):
    """Folder of an audit; not to be changed."""
    folder = tmp_path_factory.mktemp("audited")
    assert audit(digits, folder) == 0
    return folder


@pytest.fixture(scope="module")
def page(audited):
    return Page(audited / "audit.html")


def listed(folder: Path) -> list[dict]:
    return pq.read_table(folder / "audit.parquet").to_pylist()


def made(probability, selected=None, labels=None, **changes) -> Selection:
    """A selection of samples in two classes."""
    probability = np.asarray(probability, dtype=np.float32)
    selected = probability > 0.9 if selected is None else np.asarray(selected)
    content = {
        "index": np.arange(len(probability)),
        "labels": np.arange(len(probability)) % 2 if labels is None else np.asarray(labels),
        "votes": 3 * selected.astype(int),
        "mean_probability": probability,
        "is_selected": selected,
        "provenance": {"num_members": 3},
    }
    return Selection(**(content | changes))


def split_of(selection: Selection, class_names: list[str], image_size: int = 8) -> ImageSplit:
    pixels = torch.randint(0, 256, (len(selection.index), 3, image_size, image_size), dtype=torch.uint8)
    return ImageSplit(pixels, torch.from_numpy(selection.labels), class_names, torch.from_numpy(selection.index))


def page_of(folder: Path, selection: Selection, class_names: list[str], image_size: int = 8, **options) -> Page:
    selection.save(folder / "selection")
    return Page(write_audit(folder, split_of(selection, class_names, image_size), "some/data", **options))


# Numbers -------------------------------------------------------------------------------------------------------------


def test_numbers_on_the_page_are_those_of_the_selection(audited, page):
    selection = Selection.load(audited / "selection")
    suspected = int((~selection.is_selected).sum())
    assert 0 < suspected < 96
    assert f"training images 96 suspected ({100 * suspected / 96:.1f} %) {suspected} of the images" in page.text
    votes = [[str(number), str(int((selection.votes == number).sum()))] for number in range(4)]
    assert page.table("Votes") == votes
    agreement = [[str(number), str(int((selection.agreeing_members == number).sum()))] for number in range(1, 4)]
    assert page.table("Agreement") == agreement
    for low, (name, count) in zip(np.arange(20) / 20, page.table("Mean probability"), strict=True):
        above, below = selection.mean_probability >= low, selection.mean_probability < low + 0.05
        assert name == f"{low:.2f} – {low + 0.05:.2f}"
        assert int(count) == (above & (below | (low == 0.95))).sum()
    for number, row in enumerate(page.table("By class")):
        own = selection.labels == number
        assert row[:4] == [
            CLASS_NAMES[number],
            str(own.sum()),
            str((own & ~selection.is_selected).sum()),
            f"{selection.mean_probability[own].mean():.3f}",
        ]


def test_rows_of_the_images_are_those_of_the_selection(audited, page, digits):
    selection = Selection.load(audited / "selection")
    images = datasets.Dataset.from_parquet(str(digits / "train.parquet")).cast_column(
        "image", datasets.Image(decode=False)
    )
    assert len(page.rows) > 50
    for row in page.rows:
        at = row["index"]
        assert selection.index[at] == at
        assert row["file"] == images[at]["image"]["path"]
        assert (row["label"], row["votes"]) == (selection.labels[at], selection.votes[at])
        assert row["mean_probability"] == pytest.approx(selection.mean_probability[at], abs=1e-6)
        assert row["lowest_probability"] == pytest.approx(selection.lowest_probability[at], abs=1e-6)
        assert row["is_suspected"] == (not selection.is_selected[at])
        assert row["predicted_label"] == selection.predicted_labels[at]
        assert row["agreeing_members"] == selection.agreeing_members[at]
        assert (row["bias_label"], row["is_conflicting"]) == (images[at]["bias_label"], images[at]["is_conflicting"])


def check_image(row: dict, expected: Image.Image) -> None:
    with Image.open(io.BytesIO(base64.b64decode(row["image"]))) as shown:
        difference = np.abs(np.asarray(shown, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 12


def test_images_on_the_page_are_those_of_the_rows(page, digits):
    data = datasets.Dataset.from_parquet(str(digits / "train.parquet"))
    for row in page.rows[::5]:
        check_image(row, data[row["index"]]["image"])


def test_views_hold_the_right_images_in_the_right_order(audited, page):
    selection = Selection.load(audited / "selection")

    def positions(numbers):
        return [page.rows[number]["index"] for number in numbers]

    suspected = [at for at in np.argsort(selection.mean_probability) if not selection.is_selected[at]]
    assert positions(page.data["suspected"]["shown"]) == suspected
    assert page.data["suspected"]["total"] == len(suspected)
    other = selection.predicted_labels != selection.labels
    errors = set(np.flatnonzero(other & (selection.agreeing_members == 3) & (selection.lowest_probability >= 0.9)))
    assert errors and set(positions(page.data["errors"]["shown"])) == errors
    surest = selection.lowest_probability[positions(page.data["errors"]["shown"])]
    assert (np.diff(surest) <= 0).all()
    for label in range(4):
        own = [at for at in np.argsort(selection.mean_probability, kind="stable") if selection.labels[at] == label]
        assert positions(page.data["least_typical"][label]) == own[:12]
        assert positions(page.data["typical"][label]) == own[::-1][:12]


def test_full_list_as_parquet_and_csv(audited):
    selection = Selection.load(audited / "selection")
    rows = listed(audited)
    assert [row["rank"] for row in rows] == list(range(1, 97))
    assert [row["index"] for row in rows] == np.argsort(selection.mean_probability).tolist()
    for row in rows:
        at = row["index"]
        assert (row["file"], row["label"]) == (f"{at}.png", CLASS_NAMES[selection.labels[at]])
        assert row["votes"] == selection.votes[at]
        assert row["mean_probability"] == selection.mean_probability[at]
        assert row["is_suspected"] == (not selection.is_selected[at])
        assert row["predicted_label"] == CLASS_NAMES[selection.predicted_labels[at]]
        assert row["is_conflicting"] == selection.is_conflicting[at]
    with open(audited / "audit.csv", newline="", encoding="utf-8") as stream:
        as_text = list(csv.DictReader(stream))
    for text, row in zip(as_text, rows, strict=True):
        assert text.keys() == row.keys()
        assert (text["file"], text["label"], int(text["index"])) == (row["file"], row["label"], row["index"])
        assert float(text["mean_probability"]) == pytest.approx(row["mean_probability"], rel=1e-6)
        assert text["is_suspected"] == str(row["is_suspected"]).lower()


def test_precision_and_recall_by_the_loop(audited, page):
    conflicting = [row["is_conflicting"] for row in listed(audited)]
    suspected = sum(row["is_suspected"] for row in listed(audited))
    sizes = sorted({10, 20, 50, suspected})
    rows = page.table("The first k")
    assert [int(row[0].split()[0]) for row in rows] == sizes
    for k, row in zip(sizes, rows, strict=True):
        found = sum(conflicting[:k])
        assert row[1:] == [str(found), f"{100 * found / k:.1f} %", f"{100 * found / sum(conflicting):.1f} %"]
    assert [row[0] for row in rows if "number suspected" in row[0]] == [f"{suspected} (number suspected)"]


def test_heat_map_by_the_loop(audited, page):
    rows = listed(audited)
    for name, *cells in page.table("Share suspected"):
        for colour, cell in zip(["red", "green", "blue", "yellow"], cells, strict=True):
            inside = [row["is_suspected"] for row in rows if (row["label"], row["bias_label"]) == (name, colour)]
            assert cell.split() == ([f"{100 * np.mean(inside):.0f}", f"%{len(inside)}"] if inside else ["–"])


def test_predictions_of_the_members_by_the_loop():
    logits = 3 * torch.randn(40, 5, 4)
    found = _predictions(logits)
    for at, members in enumerate(logits.softmax(dim=-1).tolist()):
        mean = np.mean(members, axis=0)
        label = int(mean.argmax())
        assert found["predicted_labels"][at] == label
        assert found["agreeing_members"][at] == sum(int(np.argmax(member) == label) for member in members)
        assert found["lowest_probability"][at] == pytest.approx(min(member[label] for member in members), abs=1e-6)


def test_equal_probabilities_are_listed_by_votes_then_row():
    selection = made([0.5, 0.5, 0.2, 0.5], votes=np.array([1, 0, 2, 0]), selected=[False] * 4)
    assert suspicion_order(selection).tolist() == [2, 1, 3, 0]


def test_possible_label_errors():
    selection = made(
        [0.01, 0.02, 0.03, 0.99],
        labels=[0, 0, 1, 1],
        predicted_labels=np.array([1, 1, 0, 1]),
        agreeing_members=np.array([3, 3, 3, 3]),
        lowest_probability=np.array([0.92, 0.97, 0.89, 0.99], dtype=np.float32),
    )
    assert possible_label_errors(selection, suspicion_order(selection)).tolist() == [1, 0]


# Bias labels ---------------------------------------------------------------------------------------------------------


def test_bias_labels_have_no_part_in_the_list(audited, tmp_path):
    shuffled = coloured_digits(tmp_path / "shuffled", shuffled_bias=True)
    assert audit(shuffled, tmp_path / "out") == 0
    before, after = listed(audited), listed(tmp_path / "out")
    assert [row["is_conflicting"] for row in before] != [row["is_conflicting"] for row in after]
    for row in before + after:
        for column in BIAS_COLUMNS:
            del row[column]
    assert before == after


def test_without_bias_labels_nothing_is_said_of_them(tmp_path):
    data = coloured_digits(tmp_path / "data", leave_out=sorted(BIAS_COLUMNS))
    assert audit(data, tmp_path / "out") == 0
    page = Page(tmp_path / "out" / "audit.html")
    assert "No bias labels are known here." in page.text
    assert not BIAS_COLUMNS & listed(tmp_path / "out")[0].keys()
    assert {row[column] for row in page.rows for column in BIAS_COLUMNS} == {None}
    assert "How good the list is" not in page.text and "The first k" not in " ".join(page.tables)


def test_bias_labels_of_other_attributes_only_group(tmp_path):
    selection = made([0.1, 0.95, 0.97, 0.99], bias_labels=np.array([0, 1, 2, 2]))
    selection.save(tmp_path / "selection")
    split = split_of(selection, ["a", "b"])
    split = ImageSplit(split.pixels, split.labels, ["a", "b"], split.rows, bias_names=["x", "y", "z"])
    page = Page(write_audit(tmp_path, split, "some/data"))
    assert page.table("Share suspected") == [["a", "100 %1", "–", "0 %1"], ["b", "–", "0 %1", "0 %1"]]
    assert "is not known" in page.text and not [name for name in page.tables if "first k" in name]


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


def test_the_page_is_one_file_that_asks_for_nothing(page):
    loading = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action") or (name == "href" and not value.startswith(("#", "https://")))
    ]
    assert loading == ["data:,"]
    policy = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy[0].startswith("default-src 'none'; img-src data:;")


# Size ----------------------------------------------------------------------------------------------------------------


def test_page_is_below_20_mb_and_says_what_it_leaves_out(tmp_path):
    labels = np.arange(3000) % 2
    predictions = agreed(np.where(np.arange(3000) < 2900, labels, 1 - labels), 3)
    selection = made(np.linspace(0.01, 0.05, 3000), labels=labels, **predictions)
    page = page_of(tmp_path, selection, ["a", "b"], image_size=112)
    assert PAGE_BUDGET < page.size < 20_000_000  # noise does not compress: all of the budget is used
    shown = page.data["suspected"]["shown"]
    assert [page.rows[number]["index"] for number in shown] == list(range(len(shown)))
    assert 800 < len(shown) < 2900 and page.data["suspected"]["total"] == 3000
    assert page.data["errors"]["total"] == len(page.data["errors"]["shown"]) == 100  # far down in the list, but shown
    assert f"{len(shown):,} of 3,000 suspected images are on this page" in page.text
    assert len(listed(tmp_path)) == 3000


def test_budget_of_a_page_with_many_classes(tmp_path):
    count = 12_000
    names = [f"class {number}" for number in range(3000)]
    # The most suspected thousand are of one class, so that the others do not bring them along.
    labels = np.where(np.arange(count) < 1000, 0, np.arange(count) % 3000)
    selection = made(np.linspace(0.01, 0.99, count), labels=labels)
    page = page_of(tmp_path, selection, names, page_budget=1_000_000)
    assert page.size < 1_200_000
    assert len(page.data["typical"]) == len(page.data["least_typical"]) == 3000
    assert len(page.data["suspected"]["shown"]) > 100 and len(page.data["typical"][1]) > 0
    assert len(page.table("By class")) == 200


def test_classes_of_few_images(tmp_path):
    selection = made([0.1, 0.2, 0.95], labels=[0, 1, 1])
    page = page_of(tmp_path, selection, ["a", "b", "none"])
    assert [[page.rows[n]["index"] for n in numbers] for numbers in page.data["typical"]] == [[0], [2], []]
    assert [[page.rows[n]["index"] for n in numbers] for numbers in page.data["least_typical"]] == [[0], [1], []]


def test_pixels_mapped_from_a_file_give_the_same_page(audited, digits, tmp_path):
    assert audit(digits, tmp_path, pixel_memory_limit="0") == 0
    assert (tmp_path / "audit.html").read_bytes() == (audited / "audit.html").read_bytes()


# The command ---------------------------------------------------------------------------------------------------------


def test_selection_is_taken_from_the_folder(audited, digits, tmp_path, capsys):
    Selection.load(audited / "selection").save(tmp_path / "selection")
    before = os.stat(tmp_path / "selection" / "selection.parquet").st_mtime_ns
    assert audit(digits, tmp_path, top_k=2) == 0
    assert os.stat(tmp_path / "selection" / "selection.parquet").st_mtime_ns == before
    assert [len(numbers) for numbers in Page(tmp_path / "audit.html").data["typical"]] == [2] * 4
    assert audit(digits, tmp_path, seed=7) == 2
    assert "seed (then: 42, now: 7)" in error_line(capsys)
    assert audit(digits, tmp_path, seed=7, overwrite_output_dir="true") == 0
    assert Selection.load(tmp_path / "selection").provenance["seed"] == 7


def test_selection_saved_before_predictions_were(audited, digits, tmp_path):
    from dataclasses import replace

    full = Selection.load(audited / "selection")
    replace(full, predicted_labels=None, agreeing_members=None, lowest_probability=None).save(tmp_path / "selection")
    assert audit(digits, tmp_path) == 0
    page = Page(tmp_path / "audit.html")
    assert "was saved by an earlier version and does not say what the members predict" in page.text
    assert not [name for name in page.tables if "Agreement" in name] and page.data["errors"]["total"] == 0
    assert "is_possible_label_error" not in listed(tmp_path)[0]
    assert {row["predicted_label"] for row in page.rows} == {None}


def test_selection_of_other_rows_is_refused(tmp_path):
    selection = made([0.1, 0.95, 0.97])
    selection.save(tmp_path / "selection")
    with pytest.raises(ValueError, match="found one of others"):
        write_audit(tmp_path, split_of(made([0.1, 0.2]), ["a", "b"]), "some/data")
    assert not (tmp_path / "audit.html").exists()


def test_a_set_without_a_class_is_shown_but_trains_nothing(digits, tmp_path, capsys):
    sure = {"member_threshold": 0.99999}
    assert audit(digits, tmp_path / "out", **sure) == 0
    page = Page(tmp_path / "out" / "audit.html")
    assert "Do not rely on this list" in page.text
    assert train(digits, tmp_path / "run", "lff_be", selection_dir=tmp_path / "out" / "selection", **sure) == 2
    assert "the bias-amplified set" in error_line(capsys)


def test_all_training_images_are_looked_at_and_files_are_named(tmp_path):
    columns = coloured_glyphs(40, 0.1, seed=3)
    data = tmp_path / "photographs"
    for number, (image, label) in enumerate(zip(columns["image"], columns["label"], strict=True)):
        file = data / CLASS_NAMES[label] / f"it's {number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image["bytes"] if number != 8 else b"broken")
    assert audit(data, tmp_path / "out", skip_unreadable_images="true") == 0
    rows = listed(tmp_path / "out")
    files = sorted(str(file.relative_to(data)) for file in data.rglob("*.png"))
    broken = files.index("bar/it's 08.png")
    assert {row["index"]: row["file"] for row in rows} == {n: f for n, f in enumerate(files) if n != broken}
    assert all(row["file"].startswith(f"{row['label']}/") for row in rows)
    for row in Page(tmp_path / "out" / "audit.html").rows:
        check_image(row, Image.open(data / row["file"]))
    assert "bar/it's 08.png" in (tmp_path / "out" / "dropped_images.csv").read_text()


def test_images_without_file_names(tmp_path):
    columns = coloured_glyphs(40, 0.1, seed=3)
    columns["image"] = [{"bytes": png(np.full((4, 4), 9, dtype=np.uint8)), "path": None}] * 40
    write_parquet(tmp_path / "data" / "train.parquet", columns, FEATURES)
    assert audit(tmp_path / "data", tmp_path / "out", member_steps=2) == 0
    assert "file" not in listed(tmp_path / "out")[0]
    assert {row["file"] for row in Page(tmp_path / "out" / "audit.html").rows} == {None}


def test_top_k_is_checked(digits, tmp_path, capsys):
    assert audit(digits, tmp_path, top_k=0) == 2
    assert "--top_k: expected at least 1, found 0" in error_line(capsys)


def test_audit_at_the_end_of_training(audited, digits, tmp_path):
    out = tmp_path / "run"
    assert train(digits, out, "lff_be", audit="true") == 0
    selection = (out / "selection" / "selection.parquet").read_bytes()
    assert (out / "audit.html").read_bytes() == (audited / "audit.html").read_bytes()
    assert selection == (audited / "selection" / "selection.parquet").read_bytes()
    assert "`audit`" not in (out / "README.md").read_text()
    assert train(digits, out, "lff_be", overwrite_output_dir="true") == 0
    assert not list(out.glob("audit.*"))
    before = (out / "model.safetensors").read_bytes()
    assert train(digits, out, "lff_be", resume_from_checkpoint="true", audit="true") == 0
    assert (out / "audit.html").read_bytes() == (audited / "audit.html").read_bytes()
    assert (out / "model.safetensors").read_bytes() == before


def test_audit_of_a_method_without_selection_is_refused(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "run", "lff", audit="true") == 2
    assert "--audit: expected a method with BiasEnsemble (lff_be, disent_be), found lff" in error_line(capsys)
    assert not (tmp_path / "run").exists()


# When not to trust it ------------------------------------------------------------------------------------------------


def agreed(predicted, agreeing) -> dict:
    predicted = np.asarray(predicted)
    return {
        "predicted_labels": predicted,
        "agreeing_members": np.broadcast_to(agreeing, predicted.shape).copy(),
        "lowest_probability": np.full(len(predicted), 0.9, dtype=np.float32),
    }


SOUND = np.r_[np.full(20, 0.1), np.full(980, 0.99)]
LABELS = np.arange(1000) % 2


def test_a_strong_signal_is_not_warned_of(tmp_path):
    predicted = np.where(SOUND > 0.5, LABELS, 1 - LABELS)
    selection = made(SOUND, **agreed(predicted, 3))
    assert weak_signals(selection, ["a", "b"]) == []
    assert "Can the list be trusted?" in page_of(tmp_path, selection, ["a", "b"]).text


WEAK = {
    "all right": (made(np.full(1000, 0.99), **agreed(LABELS, 3)), "Hardly any image is suspected: 0 of 1,000"),
    "unsure": (
        made(np.r_[np.full(600, 0.8), np.full(400, 0.99)], **agreed(LABELS, 3)),
        "sure of only 40 % of the images",
    ),
    "unsure of a class": (
        made(np.r_[np.full(85, 0.8), np.full(915, 0.99)], labels=(np.arange(1000) >= 100).astype(int)),
        "sure of less than 20 % of the images of a.",
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
