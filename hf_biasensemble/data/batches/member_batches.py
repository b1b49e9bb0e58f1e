"""Batches for the biased members, in a separate random order for each member."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.internal.seeding import derived_seed


class MemberBatches(Dataset):
    """A split as M members see it: item i is, for member m, the sample at position `order[m, i]` (int64 (M, L)).

    The Trainer shuffles the items, so it also handles sampling without replacement, resuming and sharding. A batch
    holds `pixel_values` (B, M, C, H, W) and `labels` (B, M).
    """

    def __init__(self, split: ImageSplit, order: torch.Tensor):
        self.split = split
        self.order = order

    @classmethod
    def shuffled(cls, split: ImageSplit, num_members: int, seed: int) -> "MemberBatches":
        """A random order of the whole split for each member."""
        orders = []
        for member in range(num_members):
            generator = torch.Generator().manual_seed(derived_seed(seed, "member order", member))
            orders.append(torch.randperm(len(split), generator=generator))
        return cls(split, torch.stack(orders))

    @classmethod
    def cross_fitted(cls, split: ImageSplit, num_members: int, seed: int) -> tuple["MemberBatches", torch.Tensor]:
        """Two networks per member, each trained on one half of the samples, with the classes split evenly.

        Returns the batches of the 2M networks, first networks first, and whether the first network of each member is
        trained on a sample, bool (R, M). If the halves differ in size, the larger one leaves out a sample.
        """
        labels = split.labels[split.rows]
        firsts, seconds, trained_on = [], [], []
        for member in range(num_members):
            generator = torch.Generator().manual_seed(derived_seed(seed, "member halves", member))
            shuffled = torch.randperm(len(split), generator=generator)
            by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
            halves = by_class[::2], by_class[1::2]
            length = len(halves[1])
            first, second = (half[torch.randperm(len(half), generator=generator)][:length] for half in halves)
            firsts.append(first)
            seconds.append(second)
            trained_on.append(torch.zeros(len(split), dtype=torch.bool).index_fill(0, halves[0], True))
        return cls(split, torch.stack([*firsts, *seconds])), torch.stack(trained_on, dim=1)

    def balanced(self, seed: int) -> "MemberBatches":
        """Repeats samples of the rarer classes until each member sees its classes equally often."""
        labels = self.split.labels[self.split.rows]
        each = int(max(torch.bincount(labels[order]).max() for order in self.order))
        orders = []
        for number, order in enumerate(self.order):
            by_class = order[torch.argsort(labels[order], stable=True)].split(torch.bincount(labels[order]).tolist())
            repeated = torch.cat([own.repeat(-(-each // len(own)))[:each] for own in by_class if len(own)])
            generator = torch.Generator().manual_seed(derived_seed(seed, "balanced members", number))
            orders.append(repeated[torch.randperm(len(repeated), generator=generator)])
        shortest = min(len(order) for order in orders)  # one of two halves may lack a class of a single sample
        return MemberBatches(self.split, torch.stack([order[:shortest] for order in orders]))

    def __len__(self) -> int:
        return self.order.shape[1]

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        chosen = self.order[:, torch.as_tensor(positions)].T
        batch = self.split.__getitems__(chosen.flatten())
        return {name: batch[name].unflatten(0, chosen.shape) for name in ("pixel_values", "labels")}
