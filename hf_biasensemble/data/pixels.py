"""Splits of images, decoded once to a uint8 array, and batches of them by row number."""

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
    """An excluded image: its row in the split as loaded, its file, and the reason."""

    row: int
    file: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row} ({self.file}: {self.reason})"


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Pixels and labels of a split on the training device, which also gathers the batches."""

    pixels: torch.Tensor  # uint8 (N, C, H, W), or float16 (N, 1 + V, D) for features
    labels: torch.Tensor  # int64 (N,)


@dataclass(frozen=True, eq=False)
class ImageSplit(Dataset):
    """A split of a dataset: decoded images with their labels, read in batches.

    A batch is a dict of `pixel_values` (B, C, H, W) uint8, `labels` (B,) and `index` (B,), the row of each sample in
    the split as loaded. Batches have no bias labels: those are for evaluation only.

    Attributes:
        pixels: uint8 (N, C, H, W) of all N rows of the split as loaded, in memory or mapped from a file, or features;
            empty until [`decode_split`] decodes them.
        labels: int64 (N,).
        class_names: Names of the K classes.
        rows: int64 (R,), the rows that belong to this split, in order.
        bias_labels: int64 array (N,), -1 for unknown ones; `None` without bias labels.
        is_conflicting: bool array (N,), or `None` if unknown.
        bias_names: Names of the bias labels, or `None` if unknown.
        aligned_bias: The bias-aligned pairs `bias=class`; `None` if unknown or if a column gives `is_conflicting`.
        aligned_by: The source of `is_conflicting`: "column", "option", "names" or "majority"; `None` if unknown.
        unreadable: Images that are not in `rows` because they cannot be read.
        images: The undecoded images of all N rows, or `None` without images.
        texts: The text columns of all N rows, shown in audits if the dataset has vectors.
        source_fingerprint: Fingerprint of the decoded images that features were computed from.
        excluded: Number of rows that `--exclude_rows` removed.
        relabelled: Number of rows that `--relabel` changed.
        reading: The printed reading plan of the dataset.
        on_device: The same pixels and labels on the training device, with `--pixels_on device`.
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
        """Whether the split has features, or vectors from the dataset, instead of pixels."""
        return isinstance(self.pixels, Features)

    def __getitems__(self, positions: Sequence[int] | torch.Tensor) -> dict[str, torch.Tensor]:
        index = self._uploaded(self.rows[torch.as_tensor(positions)])
        labels = self.on_device.labels if self.on_device else self.labels
        return {"pixel_values": self.pixels_of(index), "labels": labels[index], "index": index}

    def pixels_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The pixels (B, C, H, W) of rows (B,) of the split as loaded."""
        pixels = self.on_device.pixels if self.on_device else self.pixels
        return pixels.index_select(0, self._uploaded(rows))

    def _uploaded(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows, moved to the device of the pixels."""
        return upload(rows, self.on_device.pixels.device) if self.on_device else rows

    def select(self, positions: torch.Tensor | np.ndarray) -> "ImageSplit":
        """Selects the samples at these positions, in this order, with repeats; shares the pixels."""
        return replace(self, rows=self.rows[torch.as_tensor(positions)])

    def classes_lost(self, kept: "ImageSplit") -> list[str]:
        """The classes that have samples in this split, but not in `kept`, a part of it."""
        lost = np.setdiff1d(self.labels[self.rows].numpy(), kept.labels[kept.rows].numpy())
        return [self.class_names[number] for number in lost]

    def measured_by(self) -> dict[str, Any]:
        """Arrays (R,) for evaluation: `labels`, `bias_labels` and `is_conflicting`; the last two may be `None`."""
        columns = (self.labels.numpy(), self.bias_labels, self.is_conflicting)
        names, rows = ("labels", "bias_labels", "is_conflicting"), self.rows.numpy()
        return {n: None if column is None else column[rows] for n, column in zip(names, columns, strict=True)}

    def groups(self) -> tuple[list[str], np.ndarray] | None:
        """The names of the bias labels, and the bias label of each sample (R,), -1 (the last name) for unknown ones.

        Without bias labels, samples are bias-aligned (0) or bias-conflicting (1); `None` if that is unknown too.
        """
        columns = self.measured_by()
        if columns["bias_labels"] is not None:
            bias_labels = columns["bias_labels"]
            return self.bias_names or [str(number) for number in range(bias_labels.max() + 1)], bias_labels
        if columns["is_conflicting"] is not None:
            return ["bias-aligned", "bias-conflicting"], columns["is_conflicting"].astype(np.int64)
        return None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the decoded images, labels, rows and class names."""
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
    """Decodes all images to RGB squares, or reads them from the cache; returns splits with vectors unchanged.

    `mapped` memory-maps the cached file, which processes share, instead of reading it. `verify` checks its whole
    content. `skip_unreadable` excludes unreadable images, which are refused otherwise. `name` is for messages.
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
    """Writes the excluded images, if any, as CSV (split, row, file, reason) and prints their number."""
    rows = [
        (name, image.row, image.file, image.reason) for name, split in splits.items() for image in split.unreadable
    ]
    if not rows:
        return
    with written_whole(file) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("split", "row", "file", "reason"), *rows])
    print_once(f"left out unreadable images: {len(rows)}, listed in {file}")
