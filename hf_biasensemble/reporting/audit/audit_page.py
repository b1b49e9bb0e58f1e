"""The data of the audit page: the images it shows and the classes that are confused."""

import base64
import io
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise, takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jinja2.utils import htmlsafe_json_dumps
from PIL import Image

from hf_biasensemble.data.decoding import upright_image
from hf_biasensemble.data.marks import sample_hash
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.reporting.audit.weak_signals import contradicting
from hf_biasensemble.selection import Selection

WIDEST_TABLE = 40
"""Most classes or bias labels in a table of both."""

_LONGEST_TEXT = 1000  # characters of a column
_LONGEST_SIDE = 384  # pixels: enough to judge a photograph, and about 500 fit into the page
_IMAGES_AT_ONCE = 64
_MOST_PAIRS = 8
_FEWEST_CONFUSED = 10  # images; fewer may be chance


def page_data(
    selection: Selection,
    split: ImageSplit,
    table: pa.Table,
    order: np.ndarray,
    errors: np.ndarray,
    top_k: int,
    budget: int,
) -> dict[str, Any]:
    """The data of the page's script: rows of images, and which rows each part of the page shows. Half of the budget
    (bytes) is for the classes; flagged images and possible label errors, in turn, fill the rest."""
    flagged = order[~selection.is_selected[order]]
    contradict = contradicting(selection)[flagged]
    number, num_classes = int(contradict.sum()), len(split.class_names)
    flagged[:number], flagged[number:] = flagged[contradict], flagged[~contradict]  # in place: there may be millions
    views = {"contradicting": flagged[:number], "hesitating": flagged[number:], "errors": errors}
    typical = _first_of_each_class(selection.labels, order[selection.is_selected[order]][::-1], num_classes, top_k)
    of_class = _first_of_each_class(selection.labels, flagged, num_classes, top_k)
    names = {"class_names": split.class_names, "fingerprint": split.fingerprint}
    rows: dict[int, list] = {}
    used = len(htmlsafe_json_dumps(names))
    for wanted, limit in ((_interleaved(*typical, *of_class), budget // 2), (_interleaved(*views.values()), budget)):
        for position, row in _rows(table, split, (each for each in wanted if each not in rows)):
            size = len(htmlsafe_json_dumps(row)) + 1
            if used + size > limit:
                break
            rows[position] = row
            used += size
    place = {position: number for number, position in enumerate(rows)}

    def shown(positions: np.ndarray) -> list[int]:
        """The first positions up to one that is not on the page: a list has no gaps."""
        return [place[position] for position in takewhile(place.__contains__, map(int, positions))]

    return {
        **names,
        "columns": [*table.column_names, "image_hash", "image"],
        "rows": list(rows.values()),
        "views": {name: {"shown": shown(view), "total": len(view)} for name, view in views.items()},
        "typical": [shown(positions) for positions in typical],
        "flagged": [shown(positions) for positions in of_class],
        "flagged_totals": np.bincount(selection.labels[flagged], minlength=num_classes).tolist(),
    }


def _first_of_each_class(labels: np.ndarray, positions: np.ndarray, num_classes: int, top_k: int) -> list[np.ndarray]:
    """The first `top_k` positions of each class."""
    own = labels[positions].astype(np.int32)
    starts = np.r_[0, np.cumsum(np.bincount(own, minlength=num_classes))]
    by_class = np.argsort(own, kind="stable")
    return [positions[by_class[start : min(start + top_k, end)]] for start, end in pairwise(starts.tolist())]


def _interleaved(*lists: Sequence[int] | np.ndarray) -> Iterator[int]:
    """Interleaves lists: the first element of every list, then the second ones, and so on, each element once."""
    seen: set[int] = set()
    for number in range(max(map(len, lists))):
        for position in (int(positions[number]) for positions in lists if number < len(positions)):
            if position not in seen:
                seen.add(position)
                yield position


def _rows(table: pa.Table, split: ImageSplit, positions: Iterator[int]) -> Iterator[tuple[int, list]]:
    """Each position with its row of the table, hash and thumbnail; images are only read as needed."""
    while block := list(islice(positions, _IMAGES_AT_ONCE)):
        for position, row in zip(block, table.take(pa.array(block)).to_pylist(), strict=True):
            values = [round(value, 6) if isinstance(value, float) else value for value in row.values()]
            yield position, [*values, sample_hash(split, row["index"]), _thumbnail(split, row["index"])]


def text_of(split: ImageSplit, row: int) -> str | None:
    """The texts of a row, with the names of their columns if there are several; `None` without text columns."""
    if split.texts is None:
        return None
    texts = {name: text for name, text in split.texts[row].items() if text}
    shown = texts.values() if len(split.texts.column_names) == 1 else (f"{name}: {texts[name]}" for name in texts)
    return "\n".join(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …" for text in shown)


def _thumbnail(split: ImageSplit, row: int) -> str:
    """A thumbnail of the image file or else of the decoded pixels, uint8 (3, S, S); empty for vectors."""
    if split.images is not None:
        return thumbnail(upright_image(split.images[row]["image"]))
    if split.has_vectors:
        return ""
    pixels = split.pixels.index_select(0, torch.tensor([row]))[0]
    return thumbnail(Image.fromarray(pixels.permute(1, 2, 0).numpy()))


def thumbnail(image: Image.Image) -> str:
    """Shrinks the image in place and returns it as WebP in base64."""
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=80)
    return base64.b64encode(stream.getvalue()).decode()


def confusions(selection: Selection, split: ImageSplit) -> list[dict[str, Any]]:
    """Pairs of classes that the members confuse in ten or more flagged images, most frequent first, with the most
    frequent bias label of these images if bias labels have names."""
    assert selection.predicted_labels is not None
    number = len(split.class_names)
    confused = np.flatnonzero(contradicting(selection))
    codes = selection.labels[confused] * number + selection.predicted_labels[confused]
    found, counts = np.unique(codes, return_counts=True)
    pairs = []
    for place in np.argsort(-counts, kind="stable")[:_MOST_PAIRS]:
        if counts[place] < _FEWEST_CONFUSED:
            break
        label, predicted = divmod(int(found[place]), number)
        pair: dict[str, Any] = {"label": label, "predicted": predicted, "count": int(counts[place])}
        pair |= {"bias": None, "bias_count": 0}
        if selection.bias_labels is not None and split.bias_names:
            biases = selection.bias_labels[confused][codes == found[place]]
            biases = np.bincount(biases % len(split.bias_names))  # unknown is -1, the last name
            pair |= {"bias": split.bias_names[biases.argmax()], "bias_count": int(biases.max())}
        pairs.append(pair)
    return pairs
