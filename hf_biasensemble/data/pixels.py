"""Decode once: a split's images as one uint8 array, and whole batches of it by row number."""

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset

from hf_biasensemble.data.loading import LabelledSplit
from hf_biasensemble.errors import BiasEnsembleError

MAX_IMAGE_PIXELS = 20_000 * 20_000 // 4
"""Larger images are refused by name: decoding one would take gigabytes."""


@dataclass(frozen=True, eq=False)
class ImageSplit(Dataset):
    """Decoded images of a split with their labels.

    A batch is a dict of `pixel_values` (B, C, H, W) uint8, `labels` (B,) and `index` (B,), the row of each sample in
    the split as loaded, whatever the order or the part that `rows` picks. Bias labels are not in it: they measure.

    Attributes:
        pixels: uint8 (N, C, H, W) of all N rows of the split as loaded.
        labels: int64 (N,).
        class_names: Names of the K classes.
        rows: int64 (R,), the rows this split consists of, in order; all of them by default.
        bias_labels: int64 array (N,), or `None` where unknown.
        is_conflicting: bool array (N,), or `None` where unknown.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    class_names: list[str]
    rows: torch.Tensor
    bias_labels: np.ndarray | None = None
    is_conflicting: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        index = self.rows[torch.as_tensor(positions)]
        return {"pixel_values": self.pixels[index], "labels": self.labels[index], "index": index}

    def select(self, positions: torch.Tensor | np.ndarray) -> "ImageSplit":
        """The samples at these positions, in this order, repeats allowed; shares the pixels."""
        return replace(self, rows=self.rows[torch.as_tensor(positions)])

    def measured_by(self) -> dict[str, Any]:
        """`labels`, `bias_labels` and `is_conflicting` of the split's samples, arrays in its order, or `None`."""
        rows = self.rows.numpy()
        columns = {
            "labels": self.labels.numpy(),
            "bias_labels": self.bias_labels,
            "is_conflicting": self.is_conflicting,
        }
        return {name: None if column is None else column[rows] for name, column in columns.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the decoded images, labels and rows: equal exactly for equal data."""
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        for array in (self.pixels, self.labels, self.rows):
            digest.update(array.contiguous().numpy().data.cast("B"))
        digest.update("\0".join(self.class_names).encode())
        return digest.hexdigest()[:32]


def decode_split(split: LabelledSplit, image_size: int, workers: int | None = None) -> ImageSplit:
    """Decodes all images to RGB at `image_size` x `image_size`.

    Images are shown as PIL shows them (EXIF rotation applied, palette, grey, CMYK and 16-bit converted, alpha dropped)
    and resized bilinearly, without keeping the aspect ratio, as the published recipe does.

    Args:
        split (`LabelledSplit`): What [`load_splits`] gave.
        image_size (`int`): Height and width in pixels, at least 1.
        workers (`int`, *optional*): Decoding threads; by default one per processor.

    Raises:
        `BiasEnsembleError`: If images cannot be read; names row and file of each (the first ten).
    """
    count = len(split.images)
    pixels = np.empty((count, 3, image_size, image_size), dtype=np.uint8)
    problems: dict[int, str] = {}

    def decode(row: int, record: dict | None) -> None:
        try:
            pixels[row] = decode_image(record, image_size)
        except Exception as error:  # PIL raises a dozen types for broken files
            file = (record or {}).get("path") or "embedded"
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
            problems[row] = f"row {row} ({file}: {reason})"

    chunk = 1024
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, count, chunk):
            records = split.images[start : start + chunk]["image"]
            list(pool.map(decode, range(start, start + len(records)), records))
    if problems:
        listed = "; ".join(problems[row] for row in sorted(problems)[:10])
        raise BiasEnsembleError(
            f"expected readable images, found {len(problems)} of {count} that are not: {listed}; mend or remove them"
        )
    return ImageSplit(
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(split.labels),
        class_names=split.class_names,
        rows=torch.arange(count),
        bias_labels=split.bias_labels,
        is_conflicting=split.is_conflicting,
    )


def decode_image(record: dict | None, image_size: int) -> np.ndarray:
    """One undecoded image record (`bytes` or `path`) -> uint8 (3, image_size, image_size)."""
    if record is None:
        raise ValueError("no image (null)")
    content = record.get("bytes")
    with Image.open(record["path"] if content is None else io.BytesIO(content)) as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, more than the limit of {MAX_IMAGE_PIXELS:,}")
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16") or upright.mode == "I":
            upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")  # PIL warns of a palette with transparency on its way to RGB
        rgb = upright.convert("RGB")
        if rgb.size != (image_size, image_size):
            rgb = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
        return np.asarray(rgb).transpose(2, 0, 1)
