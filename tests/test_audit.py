"""The audit: numbers and lists of the page, against the selection that it shows, and the command."""

import csv
import os

import datasets
import numpy as np
import pytest
import torch
from audits import Page, audit, check_image, listed, made, split_of
from PIL import Image
from runs import common_settings, error_line, train
from synthetic import CLASS_NAMES, COLOUR_NAMES, FEATURES, coloured_digits, coloured_glyphs, png, write_parquet
from transformers import TrainerCallback

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.reporting.audit.audit import possible_label_errors, suspicion_order, write_audit
from hf_biasensemble.runs.auditing import AuditDataArguments, audit_images
from hf_biasensemble.runs.run_arguments import parse_run
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.bias_ensemble import _predictions

BIAS_COLUMNS = {"bias_label", "is_conflicting"}


@pytest.fixture(scope="module")
def audited(digits, tmp_path_factory):
    """Folder of an audit; not to be changed."""
    folder = tmp_path_factory.mktemp("audited")
    assert audit(digits, folder) == 0
    return folder


@pytest.fixture(scope="module")
def page(audited):
    return Page(audited / "audit.html")


# Numbers -------------------------------------------------------------------------------------------------------------


def test_numbers_on_the_page_are_those_of_the_selection(audited, page):
    selection = Selection.load(audited / "selection")
    flagged, right = ~selection.is_selected, selection.predicted_labels == selection.labels
    contradicting = int((flagged & ~right).sum())
    assert 1 < contradicting <= flagged.sum() < 96
    share = f"{100 * right.mean():.1f}%"
    assert f"the right class for {share} of the 96 training images; {contradicting} images contradict it" in page.text
    assert f"{contradicting} of the {flagged.sum()} flagged images contradict the members" in page.text
    for number, row in enumerate(page.table("By class")):
        own = selection.labels == number
        assert row == [
            CLASS_NAMES[number],
            str(own.sum()),
            f"{(own & flagged).sum()} ({100 * (own & flagged).sum() / own.sum():.1f}%)",
            str((own & flagged & ~right).sum()),
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
        assert (row["label"], row["votes"]) == (CLASS_NAMES[selection.labels[at]], selection.votes[at])
        assert row["mean_probability"] == pytest.approx(selection.mean_probability[at], abs=1e-6)
        assert row["lowest_probability"] == pytest.approx(selection.lowest_probability[at], abs=1e-6)
        assert row["is_flagged"] == (not selection.is_selected[at])
        assert row["predicted_label"] == CLASS_NAMES[selection.predicted_labels[at]]
        assert row["agreeing_members"] == selection.agreeing_members[at]
        assert row["bias_label"] == COLOUR_NAMES[images[at]["bias_label"]]
        assert row["is_conflicting"] == images[at]["is_conflicting"]


def test_images_on_the_page_are_those_of_the_rows(page, digits):
    data = datasets.Dataset.from_parquet(str(digits / "train.parquet"))
    for row in page.rows[::5]:
        check_image(row, data[row["index"]]["image"])


def test_views_hold_the_right_images_in_the_right_order(audited, page):
    selection = Selection.load(audited / "selection")

    def positions(numbers):
        return [page.rows[number]["index"] for number in numbers]

    by_probability = np.argsort(selection.mean_probability)
    flagged = [at for at in by_probability if not selection.is_selected[at]]
    other = selection.predicted_labels != selection.labels
    contradicting, hesitating = [at for at in flagged if other[at]], [at for at in flagged if not other[at]]
    views = page.data["views"]
    assert positions(views["contradicting"]["shown"]) == contradicting != []
    assert positions(views["hesitating"]["shown"]) == hesitating
    assert (views["contradicting"]["total"], views["hesitating"]["total"]) == (len(contradicting), len(hesitating))
    errors = set(np.flatnonzero(other & (selection.agreeing_members == 3) & (selection.lowest_probability >= 0.9)))
    assert errors and set(positions(views["errors"]["shown"])) == errors
    surest = selection.lowest_probability[positions(views["errors"]["shown"])]
    assert (np.diff(surest) <= 0).all()
    for label in range(4):
        kept = [at for at in by_probability[::-1] if selection.labels[at] == label and selection.is_selected[at]]
        assert positions(page.data["typical"][label]) == kept[:12]
        own = [at for at in contradicting + hesitating if selection.labels[at] == label]
        assert positions(page.data["flagged"][label]) == own[:12]
        assert page.data["flagged_totals"][label] == len(own)


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
        assert row["is_flagged"] == (not selection.is_selected[at])
        assert row["predicted_label"] == CLASS_NAMES[selection.predicted_labels[at]]
        assert row["is_conflicting"] == selection.is_conflicting[at]
    with open(audited / "audit.csv", newline="", encoding="utf-8") as stream:
        as_text = list(csv.DictReader(stream))
    for text, row in zip(as_text, rows, strict=True):
        assert text.keys() == row.keys()
        assert (text["file"], text["label"], int(text["index"])) == (row["file"], row["label"], row["index"])
        assert float(text["mean_probability"]) == pytest.approx(row["mean_probability"], rel=1e-6)
        assert text["is_flagged"] == str(row["is_flagged"]).lower()


def test_precision_and_recall_by_the_loop(audited, page):
    conflicting = [row["is_conflicting"] for row in listed(audited)]
    flagged = sum(row["is_flagged"] for row in listed(audited))
    sizes = sorted({10, 20, 50, flagged})
    rows = page.table("The first k")
    assert [int(row[0].split()[0]) for row in rows] == sizes
    for k, row in zip(sizes, rows, strict=True):
        found = sum(conflicting[:k])
        assert row[1:] == [str(found), f"{100 * found / k:.1f}%", f"{100 * found / sum(conflicting):.1f}%"]
    assert [row[0] for row in rows if "all flagged" in row[0]] == [f"{flagged} (all flagged)"]


def test_heat_map_by_the_loop(audited, page):
    rows = listed(audited)
    for name, *cells in page.table("Fraction flagged"):
        for colour, cell in zip(["red", "green", "blue", "yellow"], cells, strict=True):
            inside = [row["is_flagged"] for row in rows if (row["label"], row["bias_label"]) == (name, colour)]
            assert cell == (f"{100 * np.mean(inside):.0f}%{len(inside)}" if inside else "–")


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
    assert not BIAS_COLUMNS & listed(tmp_path / "out")[0].keys()
    assert len(page.rows) > 50 and not BIAS_COLUMNS & page.rows[0].keys()
    assert "How good the list is" not in page.text and "The first k" not in " ".join(page.tables)


def test_bias_labels_of_other_attributes_only_group(tmp_path):
    selection = made([0.1, 0.95, 0.97, 0.99], bias_labels=np.array([0, 1, 2, 2]))
    selection.save(tmp_path / "selection")
    split = split_of(selection, ["a", "b"])
    split = ImageSplit(split.pixels, split.labels, ["a", "b"], split.rows, bias_names=["x", "y", "z"])
    page = Page(write_audit(tmp_path, split, "some/data"))
    assert page.table("Fraction flagged") == [["a", "100%1", "–", "0%1"], ["b", "–", "0%1", "0%1"]]
    assert "is unknown" in page.text and not [name for name in page.tables if "first k" in name]


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


def test_pixels_mapped_from_a_file_give_the_same_page(audited, digits, tmp_path):
    assert audit(digits, tmp_path, pixel_memory_limit="0") == 0
    assert (tmp_path / "audit.html").read_bytes() == (audited / "audit.html").read_bytes()


# The command ---------------------------------------------------------------------------------------------------------


def test_selection_is_taken_from_the_folder(audited, digits, tmp_path, capsys):
    Selection.load(audited / "selection").save(tmp_path / "selection")
    before = os.stat(tmp_path / "selection" / "selection.parquet").st_mtime_ns
    assert audit(digits, tmp_path, num_images=2) == 0
    assert os.stat(tmp_path / "selection" / "selection.parquet").st_mtime_ns == before
    assert [len(numbers) for numbers in Page(tmp_path / "audit.html").data["typical"]] == [2] * 4
    assert audit(digits, tmp_path, seed=7) == 2
    assert "seed (then: 42, now: 7)" in error_line(capsys)
    assert audit(digits, tmp_path, seed=7, overwrite_output_dir="true") == 0
    assert Selection.load(tmp_path / "selection").provenance["seed"] == 7


def test_page_says_what_estimates_accuracy_where_members_can(audited, digits, tmp_path):
    said = "hf-biasensemble judge --model MODEL --members"
    assert f"{said} FOLDER" in " ".join(Page(audited / "audit.html").text.split())
    Selection.load(audited / "selection").save(tmp_path / "selection")  # of a version that did not keep members
    assert audit(digits, tmp_path) == 0
    assert said not in Page(tmp_path / "audit.html").text


def test_selection_saved_before_predictions_were(audited, digits, tmp_path, capsys):
    from dataclasses import replace

    full = Selection.load(audited / "selection")
    replace(full, predicted_labels=None, agreeing_members=None, lowest_probability=None).save(tmp_path / "selection")
    assert audit(digits, tmp_path) == 2
    assert "expected a selection that says what the members predict, found an older one" in error_line(capsys)


def test_selection_of_other_rows_is_refused(tmp_path):
    selection = made([0.1, 0.95, 0.97])
    selection.save(tmp_path / "selection")
    with pytest.raises(ValueError, match="found one of another"):
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
    assert "file" not in Page(tmp_path / "out" / "audit.html").rows[0]


def test_number_of_images_is_checked(digits, tmp_path, capsys):
    assert audit(digits, tmp_path, num_images=0) == 2
    assert "--num_images: expected at least 1, found 0" in error_line(capsys)


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
    said = error_line(capsys)
    assert "option --audit in the command line has no effect with --method lff; it belongs to " in said
    assert "disent_be" in said
    assert not (tmp_path / "run").exists()


class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 12:
            raise KeyboardInterrupt


def test_an_audit_is_resumed_as_it_began(digits, tmp_path, capsys):
    out, options = tmp_path / "out", {"dataset_name": digits, "save_steps": 5, **common_settings("lff_be")}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    settings = parse_run([*words, "--output_dir", str(out)], None, AuditDataArguments, (), "audit")
    with pytest.raises(KeyboardInterrupt):
        audit_images(*settings, 2, [Killed()])
    assert (out / "selection" / "checkpoint-10").is_dir()
    assert audit(digits, out, save_steps=5, resume_from_checkpoint="true", member_learning_rate=0.5) == 2
    assert "member_learning_rate (then: " in error_line(capsys)
    assert audit(digits, out, save_steps=5, resume_from_checkpoint="true") == 0
    assert audit(digits, tmp_path / "whole") == 0
    resumed, whole = (Selection.load(folder / "selection") for folder in (out, tmp_path / "whole"))
    assert (resumed.mean_probability == whole.mean_probability).all()
    assert audit(digits, tmp_path / "none", resume_from_checkpoint="true") == 2
    assert "expected a run in" in error_line(capsys) and not (tmp_path / "none").exists()
