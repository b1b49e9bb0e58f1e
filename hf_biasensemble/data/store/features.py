"""Feature vectors that trainers, selectors and evaluation use in place of pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from hf_biasensemble.data.batches.transforms import Draw, draw_for_these
from hf_biasensemble.data.store.array_store import StoredArray


@dataclass(frozen=True, eq=False)
class Features:
    """Features of all rows of a split as loaded, from a frozen backbone or from the dataset.

    Attributes:
        values: (N, 1 + V, D), the view for evaluation and V augmented ones; float16. Vectors of the dataset: float32,
            V = 0.
        mean: float32 (D,), over the first views of the training images.
        std: float32 (D,), over the same; 1 for constant features.
    """

    values: torch.Tensor | StoredArray
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of_vectors(cls, vectors: torch.Tensor | np.ndarray) -> "Features":
        """Features from vectors (N, D), not yet standardised."""
        return cls(torch.as_tensor(vectors)[:, None], torch.zeros(vectors.shape[1]), torch.ones(vectors.shape[1]))

    @property
    def shape(self) -> torch.Size:
        """The shape of the values."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def index_select(self, dim: int, rows: torch.Tensor) -> torch.Tensor:
        """Like `torch.Tensor.index_select`, along dimension 0 only."""
        return self.values.index_select(dim, rows)

    def transform(self) -> "FeatureTransform":
        """The transform for their batches."""
        return FeatureTransform(self.mean, self.std)


ROWS_OF_MEAN = 1 << 12


def mean_and_std(values: torch.Tensor | StoredArray, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, float32 (D,), over the first views of some rows of the features (N, 1 + V, D). The
    standard deviation of a constant feature is 1."""

    def mean_of(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        parts = (values.index_select(0, some)[:, 0].double() for some in rows.split(ROWS_OF_MEAN))
        return torch.stack([function(part).sum(dim=0) for part in parts]).sum(dim=0) / len(rows)

    mean = mean_of(lambda some: some)
    std = mean_of(lambda some: (some - mean).square()).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()


@dataclass(frozen=True, eq=False)
class FeatureTransform:
    """Features (B, ..., 1 + V, D) -> standardised float32 (B, ..., D); the counterpart of [`ImageTransform`]."""

    mean: torch.Tensor
    std: torch.Tensor
    _on: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def unchanged(cls, width: int) -> "FeatureTransform":
        """A transform that does not standardise."""
        return cls(torch.zeros(width), torch.ones(width))

    def __call__(self, features: torch.Tensor, training: bool) -> torch.Tensor:
        """Picks a random view of each image if training, else the first one, and standardises it."""
        return self.normalise(self.augment(features) if training else features[..., 0, :])

    def augment(
        self, features: torch.Tensor, draw: Draw = draw_for_these, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Picks a random view of each image, (B, ..., D), with torch's global generator. With `rows` (B,), `features`
        is (N, 1 + V, D), and only the views picked from these rows are read."""
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
        """Standardises features (..., D)."""
        device = features.device
        if device not in self._on:
            self._on[device] = self.mean.to(device), self.std.to(device)
        mean, std = self._on[device]
        return features.to(torch.get_default_dtype(), copy=True).sub_(mean).div_(std)
