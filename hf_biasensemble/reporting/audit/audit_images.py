"""The suspected images of an audit as a dataset of their own: the files as they are, with their rows of the list.

It opens with `datasets.load_dataset`, and `hf-biasensemble push OUT REPO --audit` uploads it.
"""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from hf_biasensemble.benchmark_datasets.repository import (
    SHEET_COLUMNS,
    Samples,
    contact_sheet,
    markdown_table,
    save_card,
    write_images,
    written_aside,
)
from hf_biasensemble.data.decoding import encoded_image
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.folders.output_folder import AUDIT_IMAGES, REPOSITORY_PLACEHOLDER
from hf_biasensemble.reporting.audit.audit import audit_title, file_names, list_table, suspicion_order, used_settings
from hf_biasensemble.reporting.audit.weak_signals import weak_signals
from hf_biasensemble.reporting.card.markdown import as_text
from hf_biasensemble.selection import Selection

DATA_FILE = "train-00000-of-00001.parquet"
SHEET_FILE = "contact_sheet.png"

_IMAGES_AT_ONCE = 64
_MOST_CLASSES_DRAWN = 20
_MEANINGS = {
    "image": "the file as it is in the dataset, with its metadata",
    "rank": "place in the list of all training images, 1 for the most suspected",
    "index": "row in the training split",
    "file": "name of the file, below the folder of the dataset",
    "label": "class by the dataset",
    "votes": "members that give this class a probability above the threshold",
    "mean_probability": "mean over the members of the probability of this class",
    "is_suspected": "true for all that are here",
    "predicted_label": "class with the highest mean probability over the members",
    "agreeing_members": "members that hold that class to be the most probable",
    "lowest_probability": "lowest probability that a member gives it",
    "is_possible_label_error": "all members are confident of the same other class",
    "bias_label": "bias attribute by the dataset",
    "is_conflicting": "bias-conflicting by the dataset",
}


def write_suspected_images(
    output_dir: str | Path, split: ImageSplit, dataset_name: str, config_name: str | None = None
) -> Path | None:
    """Writes the suspected images of the selection in `output_dir/selection`, the most suspected first.

    Args:
        output_dir (`str` or `Path`): Folder of an audit.
        split (`ImageSplit`): The training split that the selection was made of, with its undecoded images.
        dataset_name (`str`): Hub id or path of the data; of a path, only the last part is named.
        config_name (`str`, *optional*): Configuration of the data, for the title.

    Returns:
        `Path`: `output_dir/audit_images` with one Parquet file, a card and a contact sheet, complete or as it was
        before; `None` if no image is suspected.
    """
    selection = Selection.load(Path(output_dir) / "selection")
    order = suspicion_order(selection)
    suspected = order[~selection.is_selected[order]]
    if len(suspected) == 0:
        return None
    table = list_table(selection, split, file_names(split, dataset_name), order)
    table = table.filter(table["is_suspected"])
    if "file" in table.column_names:
        files = [name and _without_folder(name) for name in table["file"].to_pylist()]
        table = table.set_column(table.column_names.index("file"), "file", pa.array(files, pa.string()))
    names = {"label": split.class_names, "predicted_label": split.class_names, "bias_label": split.bias_names}
    features = datasets.Features({"image": datasets.Image(), **datasets.Features.from_arrow_schema(table.schema)})
    columns = {name: table[name] for name in table.column_names}
    for name in columns.keys() & names.keys():
        features[name] = datasets.ClassLabel(names=names[name])
        columns[name] = pc.index_in(columns[name], pa.array(names[name])).cast(pa.int64())
    title = f"Suspected images of {audit_title(dataset_name, config_name)}"
    with written_aside(Path(output_dir) / AUDIT_IMAGES, overwrite=True) as folder:
        write_images(folder / DATA_FILE, features, _files(split, selection.index[suspected]), columns)
        _sheet(split, selection, suspected).save(folder / SHEET_FILE)
        entry = {"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}
        text = _card(title, selection, split, list(features))
        save_card(folder, title, text, len(suspected), [entry], ["bias-conflicting"])
    return Path(output_dir) / AUDIT_IMAGES


def _without_folder(name: str) -> str:
    """The name, but of an absolute path, which says where somebody keeps files, only the last part."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return next((path.name for path in paths if path.is_absolute()), name)


def _files(split: ImageSplit, rows: np.ndarray) -> Iterator[bytes]:
    """The undecoded images of these rows, a few at a time."""
    assert split.images is not None
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        for record in split.images[rows[start : start + _IMAGES_AT_ONCE].tolist()]["image"]:
            content = encoded_image(record)
            assert content is not None  # it was decoded
            yield content


def _sheet(split: ImageSplit, selection: Selection, suspected: np.ndarray) -> Image.Image:
    """The most suspected images of each class, as the members saw them; of many classes, of the first ones."""
    labels = selection.labels[suspected]
    drawn = np.unique(labels)[:_MOST_CLASSES_DRAWN]
    samples: Samples = {}
    for place, label in enumerate(drawn.tolist()):
        rows = torch.from_numpy(selection.index[suspected[labels == label][:SHEET_COLUMNS]])
        samples[place, False] = [_png(pixels) for pixels in split.pixels.index_select(0, rows)]
    return contact_sheet(samples, [split.class_names[label] for label in drawn], "Suspected", ["most suspected first"])


def _png(pixels: torch.Tensor) -> bytes:
    """uint8 (3, S, S) as a file."""
    stream = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()


def _card(title: str, selection: Selection, split: ImageSplit, columns: list[str]) -> str:
    """The card below its YAML block."""
    total, suspected = len(selection.index), ~selection.is_selected
    warnings = [as_text(warning) for warning in weak_signals(selection, split.class_names)]
    if warnings:
        trust = f"> **Do not rely on this list.** {' '.join(warnings)}"
    else:
        trust = (
            "Nothing that can be measured without bias labels speaks against this list. That is no proof: where a "
            "shortcut is not easier than the task, being suspected says little."
        )
    measured = ""  # of how good the list is
    if selection.is_conflicting is not None:
        measured = (
            f"\n\nBy the bias labels of the data, which had no part in making the list, "
            f"{selection.is_conflicting[suspected].mean():.1%} of these images are bias-conflicting; of all training "
            f"images, {selection.is_conflicting.mean():.1%} are."
        )
    count = np.bincount(selection.labels, minlength=len(split.class_names))
    found = np.bincount(selection.labels, suspected, minlength=len(split.class_names)).astype(int)
    rows = [
        [as_text(name), f"{some:,}", f"{of:,}"] for name, some, of in zip(split.class_names, found, count, strict=True)
    ]
    meanings = [[f"`{name}`", _MEANINGS[name]] for name in columns]
    settings = ", ".join(f"`{name} {value}`" for name, value in used_settings(selection).items())
    return f"""# {as_text(title)}

{suspected.sum():,} of {total:,} training images, the most suspected first. {selection.num_members} biased
classifiers, called members, were trained briefly and in a way that makes them follow whatever is easiest. An image is
*suspected* when too few of them give it to its class with certainty: it contradicts the easy rule (bias-conflicting),
or its label is wrong, or it is just hard. Only looking tells which.

{trust}{measured}

![The most suspected images of each class]({SHEET_FILE})

## Use

```python
from datasets import load_dataset

suspected = load_dataset("{REPOSITORY_PLACEHOLDER}", split="train")
```

{markdown_table([["column", ""], ["---", "---"], *meanings])}

## Counts

{markdown_table([["class", "suspected", "training images"], ["---", "--:", "--:"], *rows])}

## How it was made

By `hf-biasensemble audit`, with {settings}. The selection is that of
[BiasEnsemble](https://huggingface.co/papers/2205.14594). The images are those of the dataset, under its terms.
"""
