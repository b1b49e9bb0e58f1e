"""The files of an audit: a page to look at, and a list of all training images, most suspicious first. Bias labels only
measure how good the list is."""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.folders.output_folder import AUDIT_FILES
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import FORMULA_START, written_whole
from hf_biasensemble.judging.members import FILE_NAME as MEMBERS_FILE
from hf_biasensemble.reporting.audit.audit_page import WIDEST_TABLE, confusions, page_data, text_of
from hf_biasensemble.reporting.audit.weak_signals import contradicting, weak_signals
from hf_biasensemble.selection import Selection, outdated

PAGE_BUDGET = 14_000_000
"""Bytes of the page for images and their rows; the rest is only in the list."""

HIGH_PROBABILITY = 0.9
"""A possible label error is an image for which each member gives another class at least this probability."""

_MOST_CLASSES_LISTED = 200
_SETTINGS = (
    *("backbone", "image_size", "num_members", "member_steps", "batch_size", "learning_rate", "member_learning_rate"),
    *("image_scale", "member_image_scale", "member_threshold", "member_agreement", "member_keep", "keep_member"),
    "seed",
)


def write_audit(
    output_dir: str | Path,
    split: ImageSplit,
    dataset_name: str,
    config_name: str | None = None,
    top_k: int = 12,
    page_budget: int = PAGE_BUDGET,
) -> Path:
    """Writes `audit.html` (always below 20 MB), `audit.csv` and `audit.parquet` for the selection in
    `output_dir/selection`, which was made from `split`, and returns the page. It shows `top_k` typical and flagged
    images of each class."""
    folder = Path(output_dir)
    selection = Selection.load(folder / "selection")
    if selection.predicted_labels is None:
        raise outdated("audit", "what the members predict")
    if not np.array_equal(selection.index, split.rows.numpy()):
        raise BiasEnsembleError(
            f"expected the selection in {folder} to be of this training split ({len(split):,} images), found one of "
            f"another ({len(selection.index):,} images); use the dataset that it was made from"
        )
    page, csv, parquet = (folder / name for name in AUDIT_FILES)
    order = suspicion_order(selection)
    errors = possible_label_errors(selection, order)
    table = table_of(selection, split, dataset_name)
    is_error = np.isin(order, errors)
    listed = table.take(pa.array(order)).append_column("is_possible_label_error", pa.array(is_error))
    listed = listed.add_column(0, "rank", pa.array(np.arange(1, len(order) + 1)))
    with written_whole(csv) as unfinished:
        pyarrow.csv.write_csv(without_formulas(listed), unfinished)
    with written_whole(parquet) as unfinished:
        pq.write_table(listed, unfinished)
    local = Path(dataset_name).expanduser()
    title = local.resolve().name if local.exists() else dataset_name
    variables = {
        "title": f"{title}, {config_name}" if config_name else title,
        "can_judge": (folder / "selection" / MEMBERS_FILE).exists(),
        **_numbers(selection, split, order),
        "confusions": confusions(selection, split),
        "data": page_data(selection, split, table, order, errors, top_k, page_budget),
        "budget": page_budget,
        "high_probability": HIGH_PROBABILITY,
        "is_tiny": not split.has_vectors and split.pixels.shape[-1] <= 64,
        "image": "row" if split.has_vectors else "image",
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with written_whole(page) as unfinished, open(unfinished, "wb") as stream:
        environment.get_template("audit_page.html.jinja").stream(variables).dump(stream, encoding="utf-8")
    return page


def suspicion_order(selection: Selection) -> np.ndarray:
    """Positions (N,) of the samples, lowest mean probability first, then fewest votes."""
    return np.lexsort((selection.index, selection.votes, selection.mean_probability))


def possible_label_errors(selection: Selection, order: np.ndarray) -> np.ndarray:
    """Positions of the possible label errors, most confident first."""
    assert selection.predicted_labels is not None and selection.lowest_probability is not None
    # A member that gives a class more than half of the probability predicts it.
    other = selection.predicted_labels != selection.labels
    found = order[(other & (selection.lowest_probability >= HIGH_PROBABILITY))[order]]
    return found[np.argsort(-selection.lowest_probability[found], kind="stable")]


def table_of(selection: Selection, split: ImageSplit, dataset_name: str) -> pa.Table:
    """The list in the order of the selection, without empty columns."""

    def named(numbers: np.ndarray | None, names: list[str] | None) -> pa.Array | None:
        if numbers is None or names is None:
            return None
        return pa.array(names).take(pa.array(numbers % len(names)))  # unknown is -1, the last name

    columns = {
        "index": selection.index,
        "file": file_names(split, dataset_name),
        "label": named(selection.labels, split.class_names),
        "votes": selection.votes,
        "mean_probability": selection.mean_probability,
        "is_flagged": ~selection.is_selected,
        "predicted_label": named(selection.predicted_labels, split.class_names),
        "agreeing_members": selection.agreeing_members,
        "lowest_probability": selection.lowest_probability,
        "bias_label": named(selection.bias_labels, split.bias_names),
        "is_conflicting": selection.is_conflicting,
        "text": None if split.texts is None else [text_of(split, row) for row in selection.index.tolist()],
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def file_names(split: ImageSplit, dataset_name: str) -> pa.ChunkedArray | None:
    """File names (N,), relative to the folder of the dataset or its table; null if unknown, `None` if all are."""
    if split.images is None:
        return None
    # Flattened to avoid reading the images.
    paths = split.images.flatten().select_columns(["image.path"]).with_format("arrow")[:]["image.path"]
    names = paths.cast(pa.string()).take(pa.array(split.rows.numpy()))
    local = Path(dataset_name).expanduser()
    folder = local.parent if local.is_file() else local
    for base in (f"{folder}/", f"{folder.resolve()}/"):
        names = pc.if_else(pc.starts_with(names, base), pc.utf8_slice_codeunits(names, len(base)), names)
    return names if pc.any(pc.greater(pc.binary_length(names), 0)).as_py() else None


def without_formulas(table: pa.Table) -> pa.Table:
    """Puts a single quote before each string that a spreadsheet would run as a formula."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = pc.replace_substring_regex(table[field.name], FORMULA_START, r"'\1")
            table = table.set_column(place, field, column)
    return table


def _conflicting_among_first(selection: Selection, order: np.ndarray) -> list[tuple[int, int]]:
    """(k, bias-conflicting images among the first k), for round k and for all flagged images; empty if there are none
    or they are unknown."""
    conflicting = selection.is_conflicting
    if conflicting is None or not conflicting.any():
        return []
    flagged = int((~selection.is_selected).sum())
    sizes = {k for power in range(1, 8) for k in (10**power, 2 * 10**power, 5 * 10**power)} | {flagged}
    found = np.cumsum(conflicting[order])
    return [(k, int(found[k - 1])) for k in sorted(sizes) if 0 < k <= len(order)]


def _numbers(selection: Selection, split: ImageSplit, order: np.ndarray) -> dict[str, Any]:
    """Variables of the template that need no images."""
    names = split.class_names

    def by_class(values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(selection.labels, values, minlength=len(names))

    shown = [key for key in _SETTINGS if not (split.has_vectors and "image" in key)]
    contradicts = contradicting(selection)
    count, kept, contradict = (by_class(of).astype(int) for of in (None, selection.is_selected, contradicts))
    probability = by_class(selection.mean_probability) / np.maximum(count, 1)
    listed = np.argsort(kept / np.maximum(count, 1), kind="stable")[:_MOST_CLASSES_LISTED]
    return {
        "class_names": names,
        "num_images": len(selection.index),
        "num_flagged": int((~selection.is_selected).sum()),
        "num_contradicting": int(contradicts.sum()),
        "num_members": selection.num_members,
        "num_conflicting": None if selection.is_conflicting is None else int(selection.is_conflicting.sum()),
        "right": float(np.mean(selection.predicted_labels == selection.labels)),
        "warnings": weak_signals(selection, names, "row" if split.has_vectors else "image"),
        "settings": {key: value for key in shown if (value := selection.provenance.get(key)) is not None},
        "class_rows": [
            (names[n], int(count[n]), int(count[n] - kept[n]), int(contradict[n]), float(probability[n]))
            for n in sorted(listed)
        ],
        "precision_rows": _conflicting_among_first(selection, order),
        "heat_map": _heat_map(selection, split),
    }


def _heat_map(selection: Selection, split: ImageSplit) -> dict[str, Any] | None:
    """[images, flagged images] by class and bias label or, without these, by class and bias-conflicting or not."""
    if selection.bias_labels is not None:
        columns, group = split.bias_names or [], selection.bias_labels
    elif selection.is_conflicting is not None:
        columns, group = ["bias-aligned", "bias-conflicting"], selection.is_conflicting.astype(np.int64)
    else:
        return None
    shape = (len(split.class_names), len(columns))
    if max(shape) > WIDEST_TABLE:
        return {"columns": columns, "rows": []}
    count, flagged = np.zeros(shape, dtype=int), np.zeros(shape, dtype=int)
    np.add.at(count, (selection.labels, group), 1)
    np.add.at(flagged, (selection.labels, group), ~selection.is_selected)
    cells = np.stack([count, flagged], axis=-1).tolist()
    return {"columns": columns, "rows": list(zip(split.class_names, cells, strict=True))}
