"""Applies marks exported from an audit page: training images to exclude, and corrected labels."""

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hf_biasensemble.data.decoding import encoded_image
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.internal.errors import BiasEnsembleError

LABEL_ERROR = "label_error"
"""The only kind of mark that `--exclude_rows` excludes."""

FORMULA_SIGNS = "=+-@\t\r\n"
_COLUMNS = ("index", "label", "kind", "new_label", "image_hash")


def image_hash(record: dict | None) -> str | None:
    """Hashes the content of an image file, as `sha256:` and 16 hexadecimal digits.

    Args:
        record (`dict`, *optional*): An undecoded image, with its file in `bytes` or under `path`.

    Returns:
        `str`: The hash; `None` without a file.
    """
    content = encoded_image(record)
    return None if content is None else _hash(content)


def _hash(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"


def sample_hash(split: ImageSplit, row: int) -> str | None:
    """The [`image_hash`] of a row of the split as loaded, or the hash of its vector if there are no images."""
    if split.images is not None:
        return image_hash(split.images[row]["image"])
    if split.has_vectors:
        return _hash(split.pixels.index_select(0, torch.tensor([row])).numpy().tobytes())
    return None


def with_marks(train: ImageSplit, exclude_rows: str | None, relabel: str | None, name: str) -> ImageSplit:
    """Excludes the rows of kind `label_error` in one CSV file, and applies the `new_label` of rows in another.

    Ignores rows held out from the split. Keeps rows with a new label, so one file can serve both options. Refuses a
    file made for other images or labels, unknown classes, and a class without images left.
    """
    to_exclude, to_relabel = _marks(exclude_rows, "exclude_rows"), _marks(relabel, "relabel")
    relabelled = {row: mark["new_label"] for row, mark in to_relabel.items() if mark["new_label"]}
    excluded = [row for row, mark in to_exclude.items() if mark["kind"] == LABEL_ERROR and row not in relabelled]
    _check(train, {row: to_relabel[row] for row in relabelled}, relabelled, f"--relabel {relabel}", name)
    _check(train, {row: to_exclude[row] for row in excluded}, relabelled, f"--exclude_rows {exclude_rows}", name)
    unknown = next((row for row, new in relabelled.items() if new not in train.class_names), None)
    if unknown is not None:
        raise BiasEnsembleError(
            f"--relabel {relabel}: expected a new_label out of {', '.join(train.class_names[:10])}, found "
            f"{relabelled[unknown]!r} for row {unknown}; correct it"
        )
    changed = np.intersect1d(train.rows.numpy(), [*relabelled]).astype(np.int64)
    labels = train.labels.clone()
    for row in changed.tolist():
        labels[row] = train.class_names.index(relabelled[row])
    kept = replace(
        train,
        labels=labels,
        rows=train.rows[torch.from_numpy(~np.isin(train.rows.numpy(), excluded))],
        is_conflicting=_conflicting(train, labels.numpy(), changed),
        relabelled=len(changed),
    )
    lost = train.classes_lost(kept)
    if lost:
        raise BiasEnsembleError(
            f"--exclude_rows and --relabel: expected training images of every class, found none left of {lost[0]}; "
            "mark fewer rows"
        )
    return replace(kept, excluded=len(train) - len(kept))


def _marks(file: str | None, option: str) -> dict[int, dict[str, str]]:
    """The rows of a file of marks, by index; empty without a file."""
    if file is None:
        return {}
    try:
        with open(Path(file).expanduser(), newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise BiasEnsembleError(
                    f"--{option} {file}: expected the marks that audit.html exports, found no column "
                    f"{', '.join(missing)}; mark images on that page and export them"
                )
            return {int(row["index"]): {key: _plain(row[key] or "") for key in _COLUMNS} for row in reader}
    except (OSError, ValueError, csv.Error) as error:
        raise BiasEnsembleError(
            f"--{option} {file}: expected the marks that audit.html exports as CSV, found {error}; export them again"
        ) from error


def _plain(text: str) -> str:
    """The text without the quote that stops spreadsheets from reading it as a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] and text[1] in FORMULA_SIGNS else text


def _check(
    train: ImageSplit, marks: dict[int, dict[str, str]], relabelled: dict[int, str], option: str, name: str
) -> None:
    """Refuses marks made for other images, or for other labels."""
    for row, mark in marks.items():
        expected = found = ""
        if not 0 <= row < len(train.labels):
            expected, found = f"rows of {name} (0 to {len(train.labels) - 1})", f"row {row}"
        elif sample_hash(train, row) != mark["image_hash"]:
            expected, found = f"marks of the images of {name}", f"another image in row {row}"
        elif mark["label"] not in (label := train.class_names[int(train.labels[row])], relabelled.get(row)):
            expected, found = f"the labels of {name}", f"{mark['label']!r} instead of {label!r} for row {row}"
        if found:
            raise BiasEnsembleError(f"{option}: expected {expected}, found {found}; use marks from an audit of {name}")


def _conflicting(train: ImageSplit, labels: np.ndarray, changed: np.ndarray) -> np.ndarray | None:
    """`is_conflicting` with the new labels; unchanged if it comes from a column of the dataset."""
    if train.is_conflicting is None or train.bias_labels is None or not train.aligned_bias or not train.bias_names:
        return train.is_conflicting
    pairs, column = set(train.aligned_bias), train.is_conflicting.copy()
    for row in changed.tolist():
        known = train.bias_labels[row] >= 0
        column[row] = (
            known and f"{train.bias_names[train.bias_labels[row]]}={train.class_names[labels[row]]}" not in pairs
        )
    return column
