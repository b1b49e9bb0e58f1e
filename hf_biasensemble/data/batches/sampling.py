"""Which training sample comes when: batches with a fixed share of samples outside the bias-amplified set."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from hf_biasensemble.internal.seeding import derived_seed


class ConflictingShareSampler(Sampler[int]):
    """Draws a share of the samples from outside the bias-amplified set, where the bias-conflicting ones are.

    The two kinds of draws alternate evenly, so every run of consecutive samples, and so every batch of any size, has
    the share up to one sample. Both kinds are uniform, without repetition until all have had their turn. The order
    depends on seed and epoch only: it is the same after a resume and for any number of processes.

    Args:
        in_amplified_set (`torch.Tensor` of shape (N,), bool): Whether each training sample is in the set.
        share (`float`): Share of draws from outside the set, in (0, 1); the others come from all samples.
        seed (`int`): Of the order.
    """

    def __init__(self, in_amplified_set: torch.Tensor, share: float, seed: int):
        self.outside = (~in_amplified_set.cpu()).nonzero().flatten()
        self.num_samples = len(in_amplified_set)
        self.share = share if len(self.outside) else 0.0
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "conflicting share", self.epoch))
        due = (torch.arange(1, self.num_samples + 1, dtype=torch.float64) * self.share).floor().long()
        is_outside = due.diff(prepend=due.new_zeros(1)) > 0
        drawn = torch.randperm(self.num_samples, generator=generator)
        rounds = -(-int(due[-1]) // max(1, len(self.outside)))
        turns = [self.outside[torch.randperm(len(self.outside), generator=generator)] for _ in range(rounds)]
        if turns:
            drawn[is_outside] = torch.cat(turns)[: int(due[-1])]
        return iter(drawn.tolist())


class WeightedSampler(Sampler[int]):
    """Draws samples with replacement, in proportion to their weights, as many in an epoch as there are samples.

    The order depends on seed and epoch only: it is the same after a resume and for any number of processes.

    Args:
        weights (`torch.Tensor` of shape (N,)): 0 or more, not all 0.
        seed (`int`): Of the draws.
    """

    def __init__(self, weights: torch.Tensor, seed: int):
        self.cumulative = weights.double().cpu().cumsum(0)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Other draws for another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cumulative)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "weighted draws", self.epoch))
        places = torch.rand(len(self), generator=generator, dtype=torch.float64) * self.cumulative[-1]
        return iter(torch.searchsorted(self.cumulative, places, right=True).clamp(max=len(self) - 1).tolist())
