"""Features of a frozen backbone in place of pixels: what trainers, selectors and evaluation see of them."""

from dataclasses import dataclass, field

import torch

from hf_biasensemble.data.batches.transforms import Draw, draw_for_these
from hf_biasensemble.data.store.array_store import StoredArray


@dataclass(frozen=True, eq=False)
class Features:
    """Features of all rows of a split as loaded, in the place of an [`ImageSplit`]'s pixels.

    Attributes:
        values: float16 (N, 1 + V, D): the view that evaluation sees, then V augmented ones; in memory or mapped.
        mean: float32 (D,), of the first view over the training images.
        std: float32 (D,), likewise; 1 where a feature never changes.
    """

    values: torch.Tensor | StoredArray
    mean: torch.Tensor
    std: torch.Tensor

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


@dataclass(frozen=True, eq=False)
class FeatureTransform:
    """float16 features (B, ..., 1 + V, D) -> float32 (B, ..., D), standardised; in the place of an [`ImageTransform`].

    Attributes:
        mean: float32 (D,).
        std: float32 (D,).
    """

    mean: torch.Tensor
    std: torch.Tensor
    _on: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False, repr=False)

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
