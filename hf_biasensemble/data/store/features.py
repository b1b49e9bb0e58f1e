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

    def augment(self, features: torch.Tensor, draw: Draw = draw_for_these) -> torch.Tensor:
        """One of the views of each image (B, ..., D), each with its own draw from torch's global generator."""
        count, *each, views, width = features.shape
        if views == 1:
            return features[..., 0, :]
        view = draw(lambda number: torch.randint(views, (1, number, *each), device=features.device), count)[0]
        row = torch.arange(view.numel(), device=features.device) * views + view.flatten()
        return features.reshape(-1, width).index_select(0, row).unflatten(0, view.shape)

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features (..., D)."""
        device = features.device
        if device not in self._on:  # copied there once
            self._on[device] = self.mean.to(device), self.std.to(device)
        mean, std = self._on[device]
        return (features.to(torch.get_default_dtype()) - mean) / std
