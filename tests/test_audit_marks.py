"""Marks of an audit put to use: `--exclude_rows` and `--relabel`, and lists that do not belong to the data."""

import csv
from pathlib import Path

import pytest
import yaml
from audits import audit, listed
from loaded import load_splits
from runs import error_line, train
from synthetic import photo

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.marks import image_hash
from hf_biasensemble.data.prepare import load_training_splits
from hf_biasensemble.internal.errors import BiasEnsembleError

COLUMNS = ["index", "label", "kind", "new_label", "image_hash"]


def data_of(folder: Path, first: int = 10) -> Path:
    """Class folders of 12 images in two classes, one named like a formula."""
    for name, grey in {"=ant": first, "owl": first + 100}.items():
        for number in range(6):
            photo(folder / name / f"{number}.png", grey + number)
    return folder


def marks_of(data: Path, file: Path, *marks: tuple[int, str, str], **changes: str) -> Path:
    """A file of marks (row, kind, new label) as the page writes it."""
    split = load_splits(str(data))["train"]
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row, kind, new_label in marks:
            label = split.class_names[split.labels[row]]
            content = {
                "index": row,
                "label": f"'{label}" if label.startswith("=") else label,
                "kind": kind,
                "new_label": f"'{new_label}" if new_label.startswith("=") else new_label,
                "image_hash": image_hash(split.images[row]["image"]),
            }
            writer.writerow(content | changes)
    return file


def loaded(data: Path, **options):
    options = {"validation_share": 0.0, "test_share": 0.0} | options
    return load_training_splits(DataArguments(dataset_name=str(data), **options), 4)["train"]


def test_label_errors_are_left_out_and_other_kinds_stay(tmp_path):
    data = data_of(tmp_path / "data")
    marks = marks_of(
        data, tmp_path / "m.csv", (1, "label_error", ""), (3, "bias_conflicting", ""), (7, "label_error", "")
    )
    before, after = loaded(data), loaded(data, exclude_rows=str(marks))
    assert after.rows.tolist() == [0, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert (after.excluded, after.relabelled) == (2, 0)
    assert after.fingerprint != before.fingerprint


def test_one_file_relabels_what_has_a_new_label_and_leaves_out_the_rest(tmp_path):
    data = data_of(tmp_path / "data")
    marks = marks_of(
        data, tmp_path / "m.csv", (1, "label_error", "owl"), (7, "label_error", "=ant"), (8, "label_error", "")
    )
    after = loaded(data, exclude_rows=str(marks), relabel=str(marks))
    assert after.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
    assert after.labels[[0, 1, 7]].tolist() == [0, 1, 0]
    assert (after.excluded, after.relabelled) == (1, 2)
    only_relabelled = loaded(data, relabel=str(marks))
    assert len(only_relabelled) == 12
    assert len({split.fingerprint for split in (loaded(data), after, only_relabelled)}) == 3


def test_held_out_images_are_the_same_with_and_without_marks(tmp_path):
    data = data_of(tmp_path / "data")
    marks = marks_of(data, tmp_path / "m.csv", *((row, "label_error", "") for row in (0, 1, 6, 7)))
    options = {"validation_share": 0.25, "test_share": 0.25}
    arguments = [DataArguments(dataset_name=str(data), exclude_rows=file, **options) for file in (None, str(marks))]
    before, after = (load_training_splits(some, 4) for some in arguments)
    for name in ("validation", "test"):
        assert before[name].rows.tolist() == after[name].rows.tolist()
        assert before[name].labels.tolist() == after[name].labels.tolist()
    assert set(after["train"].rows.tolist()) == set(before["train"].rows.tolist()) - {0, 1, 6, 7}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_hash": "sha256:0123456789abcdef"}, "another image in row 1"),
        ({"label": "owl"}, "found 'owl' instead of '=ant' for row 1"),
        ({"index": "12"}, "0 to 11"),
        ({"index": "one"}, "export them again"),
    ],
)
def test_marks_of_other_data_are_refused(tmp_path, changes, words):
    data = data_of(tmp_path / "data")
    marks = marks_of(data, tmp_path / "m.csv", (1, "label_error", ""), **changes)
    with pytest.raises(BiasEnsembleError, match=words):
        loaded(data, exclude_rows=str(marks))


def test_marks_of_the_same_names_and_labels_but_other_images_are_refused(tmp_path):
    marks = marks_of(data_of(tmp_path / "one"), tmp_path / "m.csv", (1, "label_error", ""))
    with pytest.raises(BiasEnsembleError, match="another image in row 1"):
        loaded(data_of(tmp_path / "other", first=40), exclude_rows=str(marks))


def test_unknown_classes_lost_classes_and_other_files_are_refused(tmp_path):
    data = data_of(tmp_path / "data")
    unknown = marks_of(data, tmp_path / "unknown.csv", (1, "label_error", "cat"))
    with pytest.raises(BiasEnsembleError, match="new_label out of =ant, owl, found 'cat'"):
        loaded(data, relabel=str(unknown))
    lost = marks_of(data, tmp_path / "lost.csv", *((row, "label_error", "") for row in range(6)))
    with pytest.raises(BiasEnsembleError, match="none left of =ant"):
        loaded(data, exclude_rows=str(lost))
    (tmp_path / "other.csv").write_text("index,label\n1,owl\n")
    with pytest.raises(BiasEnsembleError, match="found no column kind, new_label, image_hash"):
        loaded(data, exclude_rows=str(tmp_path / "other.csv"))
    with pytest.raises(BiasEnsembleError, match="No such file"):
        loaded(data, relabel=str(tmp_path / "none.csv"))


def test_audit_and_training_with_marks_say_so(tmp_path, capsys):
    data = data_of(tmp_path / "data")
    marks = marks_of(data, tmp_path / "m.csv", (1, "label_error", ""), (7, "label_error", "=ant"))
    assert audit(data, tmp_path / "audit", exclude_rows=marks, relabel=marks) == 0
    rows = {row["index"]: row["label"] for row in listed(tmp_path / "audit")}
    assert 1 not in rows and rows[7] == "=ant"
    options = {"exclude_rows": marks, "relabel": marks, "validation_share": 0, "test_share": 0}
    assert train(data, tmp_path / "run", **options) == 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["exclude_rows"] == settings["relabel"] == str(marks)
    card = " ".join((tmp_path / "run" / "README.md").read_text().split())
    assert "Training images marked in an audit: 1 left out, 1 relabelled." in card
    capsys.readouterr()
    without = {name: value for name, value in options.items() if name not in ("exclude_rows", "relabel")}
    assert train(data, tmp_path / "run", resume_from_checkpoint=True, **without) != 0
    assert "exclude_rows" in error_line(capsys)
