"""Images that are decoded once: one uint8 array per split, and batches of it by row number."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from hf_biasensemble.data.batches.prefetching import upload
from hf_biasensemble.data.decoding import file_of
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.store.array_store import StoredArray, digest_of
from hf_biasensemble.data.store.decoded import decoded
from hf_biasensemble.data.store.features import Features
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.internal.processes import print_once


@dataclass(frozen=True)
class UnreadableImage:
    """An image that was left out: its row in the split as loaded, its file, and the reason."""

    row: int
    file: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row} ({self.file}: {self.reason})"


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Pixels and labels of a split on the device that computes, where batches are then gathered.

    Attributes:
        pixels: uint8 (N, C, H, W), or float16 (N, 1 + V, D) where features stand in their place.
        labels: int64 (N,).
    """

    pixels: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class ImageSplit(Dataset):
    """Images of a split with their labels, as batches of decoded ones.

    A batch is a dict of `pixel_values` (B, C, H, W) uint8, `labels` (B,) and `index` (B,), the row of each sample in
    the split as loaded, whatever the order or the part that `rows` picks. Bias labels are not in it: they measure.

    Attributes:
        pixels: uint8 (N, C, H, W) of all N rows of the split as loaded, in memory or mapped from a file; empty until
            [`decode_split`] fills them in.
        labels: int64 (N,).
        class_names: Names of the K classes.
        rows: int64 (R,), the rows this split consists of, in order; all of them by default.
        bias_labels: int64 array (N,), -1 where one is unknown; `None` where all are.
        is_conflicting: bool array (N,), or `None` where unknown.
        bias_names: Names of the bias labels, or `None` where unknown.
        aligned_bias: What is bias-aligned, as pairs `bias=class`; `None` where unknown or where a column says it.
        aligned_by: Who says what is bias-aligned: "column", "option", "names" or "majority"; `None` where unknown.
        unreadable: The images that are not in `rows` because they could not be read.
        images: The undecoded images of all N rows, for the names of their files; `None` where there are none.
        texts: The columns of text of all N rows, to look at, where the dataset has vectors.
        source_fingerprint: That of the decoded training images, where features of them stand in the place of pixels.
        excluded: Rows that `--exclude_rows` left out.
        relabelled: Rows that have another label by `--relabel`.
        reading: The reading plan of the dataset, as it is printed.
        on_device: The same pixels and labels on the device, with `--pixels_on device`: batches come from there.
    """

    pixels: torch.Tensor | StoredArray | Features
    labels: torch.Tensor
    class_names: list[str]
    rows: torch.Tensor
    bias_labels: np.ndarray | None = None
    is_conflicting: np.ndarray | None = None
    bias_names: list[str] | None = None
    aligned_bias: list[str] | None = None
    aligned_by: str | None = None
    unreadable: list[UnreadableImage] = field(default_factory=list)
    images: datasets.Dataset | None = None
    texts: datasets.Dataset | None = None
    source_fingerprint: str | None = None
    excluded: int = 0
    relabelled: int = 0
    reading: list[str] = field(default_factory=list)
    on_device: OnDevice | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_vectors(self) -> bool:
        """Whether there are vectors of the dataset, or features, in place of pixels."""
        return isinstance(self.pixels, Features)

    def __getitems__(self, positions: Sequence[int] | torch.Tensor) -> dict[str, torch.Tensor]:
        index = self._uploaded(self.rows[torch.as_tensor(positions)])
        labels = self.on_device.labels if self.on_device else self.labels
        return {"pixel_values": self.pixels_of(index), "labels": labels[index], "index": index}

    def pixels_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The pixels (B, C, H, W) of these rows (B,) of the split as loaded."""
        pixels = self.on_device.pixels if self.on_device else self.pixels
        return pixels.index_select(0, self._uploaded(rows))

    def _uploaded(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows, on the device if the pixels are."""
        return upload(rows, self.on_device.pixels.device) if self.on_device else rows

    def select(self, positions: torch.Tensor | np.ndarray) -> "ImageSplit":
        """The samples at these positions, in this order, repeats allowed; shares the pixels."""
        return replace(self, rows=self.rows[torch.as_tensor(positions)])

    def classes_lost(self, kept: "ImageSplit") -> list[str]:
        """The classes of which this split has samples, and the other one, a part of it, has none."""
        lost = np.setdiff1d(self.labels[self.rows].numpy(), kept.labels[kept.rows].numpy())
        return [self.class_names[number] for number in lost]

    def measured_by(self) -> dict[str, Any]:
        """`labels`, `bias_labels` and `is_conflicting` of the split's samples, arrays in its order, or `None`."""
        rows = self.rows.numpy()
        columns = {
            "labels": self.labels.numpy(),
            "bias_labels": self.bias_labels,
            "is_conflicting": self.is_conflicting,
        }
        return {name: None if column is None else column[rows] for name, column in columns.items()}

    def groups(self) -> tuple[list[str], np.ndarray] | None:
        """Names of the values of the bias attribute, and which of them each of the split's samples (R,) has: its bias
        label (-1: unknown, the last name) or, where there are none, bias-aligned (0) or bias-conflicting (1).
        `None` where nothing is known."""
        columns = self.measured_by()
        if columns["bias_labels"] is not None:
            bias_labels = columns["bias_labels"]
            return self.bias_names or [str(number) for number in range(bias_labels.max() + 1)], bias_labels
        if columns["is_conflicting"] is not None:
            return ["bias-aligned", "bias-conflicting"], columns["is_conflicting"].astype(np.int64)
        return None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the decoded images, labels and rows: equal exactly for equal data."""
        if self.source_fingerprint:
            return self.source_fingerprint
        values = self.pixels.values if isinstance(self.pixels, Features) else self.pixels
        digest = hashlib.sha256(digest_of(values).encode())
        for array in (self.labels, self.rows):
            digest.update(array.contiguous().numpy().data.cast("B"))
        digest.update("\0".join(self.class_names).encode())
        return digest.hexdigest()[:32]


def decode_split(
    split: ImageSplit,
    geometry: Geometry | int,
    workers: int | None = None,
    mapped: bool = False,
    skip_unreadable: bool = False,
    name: str = "",
    verify: bool = False,
) -> ImageSplit:
    """All images as RGB squares, decoded by [`decode_image`] once and kept in the cache for later runs.

    Args:
        split (`ImageSplit`): Of [`load_splits`]; one that has vectors stays as it is.
        geometry (`Geometry` or `int`): How images are resized; a number: squashed to that height and width.
        workers (`int`, *optional*): Decoding threads; by default one per processor.
        mapped (`bool`): Map the file in the cache, which processes share, instead of reading it into memory.
        skip_unreadable (`bool`): Leave out images that cannot be read; `index` remains the row in the split as loaded.
        name (`str`, *optional*): Name of the split in messages.
        verify (`bool`): Check the whole content of a cached file, and refuse a damaged one.

    Raises:
        `BiasEnsembleError`: If images cannot be read; names row and file of each (the first ten).
    """
    if split.has_vectors:
        return split
    assert split.images is not None
    count = len(split.images)
    pixels, reasons = decoded(split.images, Geometry.of(geometry), name, workers, mapped, verify)
    unreadable = [UnreadableImage(row, file_of(split.images[row]["image"]), reasons[row]) for row in sorted(reasons)]
    if unreadable and not skip_unreadable:
        raise BiasEnsembleError(
            f"expected readable images, found {len(unreadable)} of {count} that are not: "
            f"{'; '.join(map(str, unreadable[:10]))}; fix or remove them, or use --skip_unreadable_images"
        )
    rows = np.setdiff1d(np.arange(count), [image.row for image in unreadable])
    return replace(split, pixels=pixels, rows=torch.from_numpy(rows), unreadable=unreadable)


def write_unreadable(splits: dict[str, ImageSplit], file: Path) -> None:
    """Writes the images that were left out as CSV (split, row, file, reason) and prints how many; no file if none."""
    rows = [
        (name, image.row, image.file, image.reason) for name, split in splits.items() for image in split.unreadable
    ]
    if not rows:
        return
    with written_whole(file) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("split", "row", "file", "reason"), *rows])
    print_once(f"left out unreadable images: {len(rows)}, listed in {file}")
