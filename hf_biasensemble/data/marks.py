"""Marks that were exported from an audit page: training images to leave out, and corrected labels."""

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
"""The kind of mark that `--exclude_rows` leaves out; marks of other kinds remove nothing."""

FORMULA_SIGNS = "=+-@\t\r\n"
_COLUMNS = ("index", "label", "kind", "new_label", "image_hash")


def image_hash(record: dict | None) -> str | None:
    """`sha256:` and 16 hexadecimal digits, of the content of an undecoded image's file; `None` where there is none."""
    content = encoded_image(record)
    return None if content is None else f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"


def sample_hash(split: ImageSplit, row: int) -> str | None:
    """[`image_hash`] of a row of the split as loaded; where there are vectors and no images, of the vector."""
    if split.images is not None:
        return image_hash(split.images[row]["image"])
    if split.has_vectors:
        content = split.pixels.index_select(0, torch.tensor([row])).numpy().tobytes()
        return f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"
    return None


def with_marks(train: ImageSplit, exclude_rows: str | None, relabel: str | None, name: str) -> ImageSplit:
    """The training split without the label errors of one file of marks, and with the new labels of another.

    Rows that were held out from the split are ignored. A row with a new label is kept, so that one file can serve
    both options.

    Args:
        train (`ImageSplit`): With its undecoded images, by which the marks are checked.
        exclude_rows (`str`, *optional*): CSV file; its rows of the kind `label_error` are left out.
        relabel (`str`, *optional*): CSV file; its rows with a `new_label` get that label.
        name (`str`): Name of the dataset in messages.

    Raises:
        `BiasEnsembleError`: If a file cannot be read, was made for other images or labels, names an unknown class, or
            leaves a class without images.
    """
    marked, mended = _marks(exclude_rows, "exclude_rows"), _marks(relabel, "relabel")
    relabelled = {row: mark["new_label"] for row, mark in mended.items() if mark["new_label"]}
    excluded = [row for row, mark in marked.items() if mark["kind"] == LABEL_ERROR and row not in relabelled]
    _check(train, {row: mended[row] for row in relabelled}, relabelled, f"--relabel {relabel}", name)
    _check(train, {row: marked[row] for row in excluded}, relabelled, f"--exclude_rows {exclude_rows}", name)
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
    """Rows of a file of marks, by index; none without a file."""
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
    """The text without the single quote that keeps spreadsheets from taking it for a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] and text[1] in FORMULA_SIGNS else text


def _check(
    train: ImageSplit, marks: dict[int, dict[str, str]], relabelled: dict[int, str], option: str, name: str
) -> None:
    """Refuses marks of other images, or of images with other labels."""
    for row, mark in marks.items():
        if not 0 <= row < len(train.labels):
            raise BiasEnsembleError(
                f"{option}: expected rows of {name} (0 to {len(train.labels) - 1}), found row {row}; use the marks of "
                "an audit of these data"
            )
        if sample_hash(train, row) != mark["image_hash"]:
            raise BiasEnsembleError(
                f"{option}: expected marks of the images of {name}, found another image in row {row}; use the marks "
                "of an audit of these data"
            )
        label = train.class_names[int(train.labels[row])]
        if mark["label"] not in (label, relabelled.get(row)):
            raise BiasEnsembleError(
                f"{option}: expected the labels of {name}, found {mark['label']!r} instead of {label!r} for row "
                f"{row}; use the marks of an audit of these data"
            )


def _conflicting(train: ImageSplit, labels: np.ndarray, changed: np.ndarray) -> np.ndarray | None:
    """`is_conflicting` by the new labels, where bias labels say so; a column of the data is taken at its word."""
    if train.is_conflicting is None or train.bias_labels is None or not train.aligned_bias or not train.bias_names:
        return train.is_conflicting
    pairs, column = set(train.aligned_bias), train.is_conflicting.copy()
    for row in changed.tolist():
        known = train.bias_labels[row] >= 0
        column[row] = (
            known and f"{train.bias_names[train.bias_labels[row]]}={train.class_names[labels[row]]}" not in pairs
        )
    return column
