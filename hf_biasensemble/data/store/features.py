"""Features in place of pixels, of a frozen backbone or of the dataset: what trainers, selectors and evaluation see."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from hf_biasensemble.data.batches.transforms import Draw, draw_for_these
from hf_biasensemble.data.store.array_store import StoredArray


@dataclass(frozen=True, eq=False)
class Features:
    """Features of all rows of a split as loaded, in the place of an [`ImageSplit`]'s pixels.

    Attributes:
        values: (N, 1 + V, D): the view that evaluation sees, then V augmented ones; float16, in memory or mapped. Of
            vectors of the dataset float32, without further views.
        mean: float32 (D,), of the first view over the training images.
        std: float32 (D,), likewise; 1 where a feature never changes.
    """

    values: torch.Tensor | StoredArray
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of_vectors(cls, vectors: torch.Tensor | np.ndarray) -> "Features":
        """Vectors (N, D) as they are, until the mean of those to train on is known."""
        return cls(torch.as_tensor(vectors)[:, None], torch.zeros(vectors.shape[1]), torch.ones(vectors.shape[1]))

    @property
    def shape(self) -> torch.Size:
        """That of the values."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def index_select(self, dim: int, rows: torch.Tensor) -> torch.Tensor:
        """As of a tensor; `dim` is 0."""
        return self.values.index_select(dim, rows)

    def transform(self) -> "FeatureTransform":
        """What becomes of a batch of them."""
        return FeatureTransform(self.mean, self.std)


ROWS_OF_MEAN = 1 << 12


def mean_and_std(values: torch.Tensor | StoredArray, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (D,), float32, of the first view of these rows of the features (N, 1 + V, D), some
    rows at a time; 1 where a feature never changes."""

    def mean_of(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        parts = (values.index_select(0, some)[:, 0].double() for some in rows.split(ROWS_OF_MEAN))
        return torch.stack([function(part).sum(dim=0) for part in parts]).sum(dim=0) / len(rows)

    mean = mean_of(lambda some: some)
    std = mean_of(lambda some: (some - mean).square()).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()


@dataclass(frozen=True, eq=False)
class FeatureTransform:
    """Features (B, ..., 1 + V, D) -> float32 (B, ..., D), standardised; in the place of an [`ImageTransform`].

    Attributes:
        mean: float32 (D,).
        std: float32 (D,).
    """

    mean: torch.Tensor
    std: torch.Tensor
    _on: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def unchanged(cls, width: int) -> "FeatureTransform":
        """One that leaves features as they are."""
        return cls(torch.zeros(width), torch.ones(width))

    def __call__(self, features: torch.Tensor, training: bool) -> torch.Tensor:
        """A random view of each image while training, else the first one."""
        return self.normalise(self.augment(features) if training else features[..., 0, :])

    def augment(
        self, features: torch.Tensor, draw: Draw = draw_for_these, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One of the views of each image (B, ..., D), each with its own draw from torch's global generator; with
        `rows` (B,), of these rows of the features (N, 1 + V, D), of which nothing else is read."""
        count, *each, views, width = features.shape
        if rows is None and views == 1:
            return features[..., 0, :]
        count, device = count if rows is None else len(rows), features.device
        view = torch.zeros(count, *each, dtype=torch.int64, device=device)
        if views > 1:
            view = draw(lambda number: torch.randint(views, (1, number, *each), device=device), count)[0]
        row = torch.arange(view.numel(), device=device) if rows is None else rows
        return features.reshape(-1, width).index_select(0, row * views + view.flatten()).unflatten(0, view.shape)

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features (..., D)."""
        device = features.device
        if device not in self._on:  # copied there once
            self._on[device] = self.mean.to(device), self.std.to(device)
        mean, std = self._on[device]
        return features.to(torch.get_default_dtype(), copy=True).sub_(mean).div_(std)
