"""What the audit page shows: which images, with what is known of them, and what the members take for what.

The words are in `audit_page.html.jinja`, its style and script in the files included there.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jinja2.utils import htmlsafe_json_dumps
from PIL import Image

from hf_biasensemble.data.decoding import upright_image
from hf_biasensemble.data.marks import image_hash
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.selection import Selection

WIDEST_TABLE = 40
"""Classes or bias labels at most, for a table of two of them."""

_LONGEST_SIDE = 384  # pixels: enough to judge a photograph, and some 500 of them fit into the page
_IMAGES_AT_ONCE = 64
_MOST_PAIRS = 5


def page_data(
    selection: Selection,
    split: ImageSplit,
    files: pa.ChunkedArray | None,
    order: np.ndarray,
    errors: np.ndarray,
    top_k: int,
    budget: int,
) -> dict[str, Any]:
    """What the script of the page works with: the rows of the images shown, and which of them go where.

    Half of the budget is for the classes; flagged images and possible label errors, in turn, fill the rest.
    """
    extremes = _extremes(selection, order, len(split.class_names), top_k)
    flagged = order[~selection.is_selected[order]]
    names = {
        "class_names": split.class_names,
        "bias_names": split.bias_names,
        "fingerprint": split.fingerprint,
    }
    rows: dict[int, list] = {}
    used = len(htmlsafe_json_dumps(names))
    for wanted, limit in ((_in_turn(*extremes), budget // 2), (_in_turn(flagged, errors), budget)):
        for position, row in _rows(selection, split, files, (some for some in wanted if some not in rows)):
            size = len(htmlsafe_json_dumps(row)) + 1
            if used + size > limit:
                break
            rows[position] = row
            used += size
    place = {position: number for number, position in enumerate(rows)}
    # Only the start of each list, without gaps, though an image from further down may be shown elsewhere.
    starts = [takewhile(place.__contains__, map(int, some)) for some in (flagged, errors, *extremes)]
    shown = [[place[position] for position in start] for start in starts]
    return {
        **names,
        "columns": list(_ROW_COLUMNS),
        "rows": list(rows.values()),
        "flagged": {"shown": shown[0], "total": len(flagged)},
        "errors": {"shown": shown[1], "total": len(errors)},
        "typical": shown[2::2],
        "least_typical": shown[3::2],
    }


_ROW_COLUMNS = (
    *("index", "file", "label", "votes", "mean_probability", "is_flagged", "predicted_label", "agreeing_members"),
    *("lowest_probability", "bias_label", "is_conflicting"),
    *("image_hash", "image"),
)


def _extremes(selection: Selection, order: np.ndarray, num_classes: int, top_k: int) -> list[list[int]]:
    """Positions of the most, then of the least typical images of each class in turn; no image is in both, unless it is
    the only one of its class."""
    by_class = order[np.argsort(selection.labels[order], kind="stable")]
    extremes = []
    for own in np.split(by_class, np.cumsum(np.bincount(selection.labels, minlength=num_classes))[:-1]):
        number = min(top_k, max(1, len(own) // 2))
        extremes += [own[::-1][:number].tolist(), own[:number].tolist()]
    return extremes


def _in_turn(*ranked: Sequence[int] | np.ndarray) -> Iterator[int]:
    """All that the lists hold, once each: what comes first in one of them, then what comes second in one, ..."""
    seen: set[int] = set()
    for number in range(max(map(len, ranked))):
        for position in (int(some[number]) for some in ranked if number < len(some)):
            if position not in seen:
                seen.add(position)
                yield position


def _rows(
    selection: Selection, split: ImageSplit, files: pa.ChunkedArray | None, positions: Iterator[int]
) -> Iterator[tuple[int, list]]:
    """Each position with its values of `_ROW_COLUMNS`; images are read a few at a time, as far as they are wanted."""
    sources = {
        "index": selection.index,
        "file": None,
        "label": selection.labels,
        "votes": selection.votes,
        "mean_probability": selection.mean_probability,
        "is_flagged": ~selection.is_selected,
        "predicted_label": selection.predicted_labels,
        "agreeing_members": selection.agreeing_members,
        "lowest_probability": selection.lowest_probability,
        "bias_label": selection.bias_labels if split.bias_names else None,
        "is_conflicting": selection.is_conflicting,
    }
    while some := list(islice(positions, _IMAGES_AT_ONCE)):
        pixels = split.pixels.index_select(0, torch.from_numpy(selection.index[some]))
        columns = {
            name: [None] * len(some) if values is None else values[some].tolist() for name, values in sources.items()
        }
        if files is not None:
            columns["file"] = files.take(pa.array(some)).to_pylist()
        for number, position in enumerate(some):
            record = _record(split, int(selection.index[position]))
            values = [column[number] for column in columns.values()]
            values = [round(value, 6) if isinstance(value, float) else value for value in values]
            yield position, [*values, image_hash(record), _thumbnail(record, pixels[number])]


def _record(split: ImageSplit, row: int) -> dict | None:
    return None if split.images is None else split.images[row]["image"]


def _thumbnail(record: dict | None, pixels: torch.Tensor) -> str:
    """An image as a WebP in base64: of its file, with the aspect ratio that it has there; where there is none, of the
    decoded pixels, uint8 (3, S, S)."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy()) if record is None else upright_image(record)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=80)
    return base64.b64encode(stream.getvalue()).decode()


def taken_for(selection: Selection, split: ImageSplit) -> dict[str, Any] | None:
    """What the members predict for the flagged images: the most frequent confusions, and the table of all.

    Returns:
        `dict` or `None` where the selection does not say what the members predict: `pairs`, each with `label`,
        `predicted`, `count` and, where bias labels have names, the most frequent of them, `bias`, with `bias_count`;
        `cells`, of class (rows) by predicted class (columns), empty where there are too many classes to draw;
        `largest`, the largest of them.
    """
    if selection.predicted_labels is None:
        return None
    number = len(split.class_names)
    flagged = np.flatnonzero(~selection.is_selected)
    labels, predicted = selection.labels[flagged], selection.predicted_labels[flagged]
    codes, counts = np.unique(labels * number + predicted, return_counts=True)
    pairs = []
    for place in np.argsort(-counts, kind="stable"):
        label, other = divmod(int(codes[place]), number)
        if label == other:
            continue
        pair: dict[str, Any] = {"label": label, "predicted": other, "count": int(counts[place])}
        pair |= {"bias": None, "bias_count": 0}
        if selection.bias_labels is not None and split.bias_names:
            biases = selection.bias_labels[flagged][(labels == label) & (predicted == other)]
            biases = np.bincount(biases % len(split.bias_names))  # -1, unknown, is the last
            pair |= {"bias": split.bias_names[biases.argmax()], "bias_count": int(biases.max())}
        pairs.append(pair)
        if len(pairs) == _MOST_PAIRS:
            break
    cells = []
    if number <= WIDEST_TABLE:
        cells = np.bincount(labels * number + predicted, minlength=number**2).reshape(number, number).tolist()
    return {"pairs": pairs, "cells": cells, "largest": int(counts.max(initial=0))}
