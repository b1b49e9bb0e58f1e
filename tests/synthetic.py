"""Tiny real datasets on disk: simple glyphs, tinted by a colour that goes with the class in most training images."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

CLASS_NAMES = ["bar", "pole", "cross", "square"]
COLOUR_NAMES = ["red", "green", "blue", "yellow"]
COLOURS = np.array([(230, 60, 50), (50, 210, 70), (60, 90, 240), (235, 220, 60)])
SIZE = 28
GREY = {"ant": 40, "owl": 200}


def glyph(label: int, generator: np.random.Generator) -> np.ndarray:
    """A grey shape (SIZE, SIZE) in [0, 1], at a random place."""
    shape = np.zeros((SIZE, SIZE))
    top, left = generator.integers(2, 9, size=2)
    if label in (0, 2):
        shape[top + 7 : top + 10, left : left + 16] = 1
    if label in (1, 2):
        shape[top : top + 16, left + 7 : left + 10] = 1
    if label == 3:
        shape[top : top + 16, left : left + 16] = 1
        shape[top + 3 : top + 13, left + 3 : left + 13] = 0
    return shape * generator.uniform(0.7, 1)


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 pixels (H, W) or (H, W, 3)."""
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The file of an image, as bytes."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A grey PNG that claims a size and holds no pixels."""
    chunks = b""
    for name, content in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b"")):
        chunks += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return b"\x89PNG\r\n\x1a\n" + chunks


def coloured_glyphs(count: int, conflicting_share: float, seed: int) -> dict[str, list]:
    """Columns image (PNG bytes), label, bias_label and is_conflicting; classes in turn."""
    generator = np.random.default_rng(seed)
    columns: dict[str, list] = {"image": [], "label": [], "bias_label": [], "is_conflicting": []}
    for number in range(count):
        label = number % len(CLASS_NAMES)
        conflicting = bool(generator.random() < conflicting_share)
        others = [colour for colour in range(len(COLOURS)) if colour != label]
        bias_label = int(generator.choice(others)) if conflicting else label
        brightness = 0.25 + 0.7 * glyph(label, generator) + generator.uniform(0, 0.05, (SIZE, SIZE))
        pixels = (brightness[..., None] * COLOURS[bias_label]).astype(np.uint8)
        columns["image"].append({"bytes": png(pixels), "path": f"{number}.png"})
        columns["label"].append(label)
        columns["bias_label"].append(bias_label)
        columns["is_conflicting"].append(conflicting)
    return columns


FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=CLASS_NAMES),
        "bias_label": datasets.ClassLabel(names=COLOUR_NAMES),
        "is_conflicting": datasets.Value("bool"),
    }
)


def coloured_digits(
    folder: Path,
    num_train: int = 96,
    num_validation: int = 32,
    num_test: int = 64,
    conflicting_share: float = 0.1,
    seed: int = 0,
    leave_out: Sequence[str] = (),
    shuffled_bias: bool = False,
) -> Path:
    """Writes `{split}.parquet` of a biased dataset; the test split has every colour alike.

    Args:
        folder: Where to; made if missing.
        conflicting_share: Of the training and validation images.
        leave_out: Columns to leave out.
        shuffled_bias: Permute the bias labels (and what follows from them) of the training images; the images stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unbiased = 1 - 1 / len(COLOURS)
    sizes = {
        "train": (num_train, conflicting_share),
        "validation": (num_validation, conflicting_share),
        "test": (num_test, unbiased),
    }
    for number, (split, (count, share)) in enumerate(sizes.items()):
        columns = coloured_glyphs(count, share, seed=3 * seed + number)
        if shuffled_bias and split == "train":
            columns["bias_label"] = np.random.default_rng(99).permutation(columns["bias_label"]).tolist()
            pairs = zip(columns["bias_label"], columns["label"], strict=True)
            columns["is_conflicting"] = [bias != label for bias, label in pairs]
        write_parquet(folder / f"{split}.parquet", columns, FEATURES, leave_out)
    return folder


def write_parquet(
    file: Path, columns: dict[str, list], features: datasets.Features | None = None, leave_out: Sequence[str] = ()
) -> Path:
    """One split as a Parquet file that keeps the features."""
    kept = {name: values for name, values in columns.items() if name not in leave_out}
    if features is not None:
        features = datasets.Features({name: features[name] for name in kept})
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(kept, features=features).to_parquet(file)
    return file


def photo(file: Path, grey: int) -> Path:
    """A file of one grey, 4 x 4 pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(np.full((4, 4, 3), grey, dtype=np.uint8)))
    return file


def class_folders(folder: Path, names: dict[str, int] = GREY, file: str = "{}.png") -> Path:
    """Two photos in a folder of each class."""
    for name, grey in names.items():
        for number in range(2):
            photo(folder / name / file.format(number), grey + number)
    return folder
