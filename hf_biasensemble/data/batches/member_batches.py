"""Batches for the biased members: one for each member, in its own order."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.internal.seeding import derived_seed


class MemberBatches(Dataset):
    """A split as M members see it: item i is, for each member, the sample at position `order[member, i]`.

    The Trainer shuffles the items, and each member reads them through an order of its own, so that sampling without
    replacement, resuming and sharding over processes stay the Trainer's business. A batch holds `pixel_values`
    (B, M, C, H, W) and `labels` (B, M).

    Args:
        split (`ImageSplit`): The training split.
        order (`torch.Tensor` of shape (M, L), int64): Positions in the split.
    """

    def __init__(self, split: ImageSplit, order: torch.Tensor):
        self.split = split
        self.order = order

    @classmethod
    def shuffled(cls, split: ImageSplit, num_members: int, seed: int) -> "MemberBatches":
        """An independent random order for each member, from a seed of its own."""
        orders = []
        for member in range(num_members):
            generator = torch.Generator().manual_seed(derived_seed(seed, "member order", member))
            orders.append(torch.randperm(len(split), generator=generator))
        return cls(split, torch.stack(orders))

    @classmethod
    def cross_fitted(cls, split: ImageSplit, num_members: int, seed: int) -> tuple["MemberBatches", torch.Tensor]:
        """Two networks for each member, each with a half of the samples that is balanced by class.

        Returns:
            The batches of 2M networks, the first of each pair and then the second ones, and bool (R, M): whether the
            first network of a member is trained on the sample at that position. Halves of odd size lack a sample.
        """
        labels = split.labels[split.rows]
        firsts, seconds, trained_on = [], [], []
        for member in range(num_members):
            generator = torch.Generator().manual_seed(derived_seed(seed, "member halves", member))
            shuffled = torch.randperm(len(split), generator=generator)
            by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]  # in turn: one half, the other half
            halves = [by_class[start::2] for start in (0, 1)]
            length = len(halves[1])
            orders = [half[torch.randperm(len(half), generator=generator)][:length] for half in halves]
            firsts.append(orders[0])
            seconds.append(orders[1])
            mask = torch.zeros(len(split), dtype=torch.bool)
            mask[halves[0]] = True
            trained_on.append(mask)
        return cls(split, torch.stack([*firsts, *seconds])), torch.stack(trained_on, dim=1)

    def balanced(self, seed: int) -> "MemberBatches":
        """The same samples of each member, those of rarer classes repeated until all its classes are as frequent."""
        labels = self.split.labels[self.split.rows]
        each = int(max(torch.bincount(labels[order]).max() for order in self.order))
        orders = []
        for number, order in enumerate(self.order):
            by_class = order[torch.argsort(labels[order], stable=True)].split(torch.bincount(labels[order]).tolist())
            present = [own for own in by_class if len(own)]
            repeated = torch.cat([own.repeat(-(-each // len(own)))[:each] for own in present])
            generator = torch.Generator().manual_seed(derived_seed(seed, "balanced members", number))
            orders.append(repeated[torch.randperm(len(repeated), generator=generator)])
        shortest = min(len(order) for order in orders)  # of halves, one may lack a class of a single sample
        return MemberBatches(self.split, torch.stack([order[:shortest] for order in orders]))

    def only(self, members: Sequence[int]) -> "MemberBatches":
        """The same batches for some of the members."""
        return MemberBatches(self.split, self.order[list(members)])

    def __len__(self) -> int:
        return self.order.shape[1]

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        chosen = self.order[:, torch.as_tensor(positions)].T
        batch = self.split.__getitems__(chosen.flatten())
        return {
            "pixel_values": batch["pixel_values"].unflatten(0, chosen.shape),
            "labels": batch["labels"].unflatten(0, chosen.shape),
        }
