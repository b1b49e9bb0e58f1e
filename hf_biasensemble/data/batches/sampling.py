"""Samplers whose order depends on seed and epoch only: it survives a resume, and all processes draw the same."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from hf_biasensemble.internal.seeding import derived_seed


class ConflictingShareSampler(Sampler[int]):
    """Draws the fraction `share`, in (0, 1), from outside the bias-amplified set (mask (N,)), the rest from anywhere.

    The two kinds of draws are interleaved evenly, so each batch has this fraction, up to one sample. Both are uniform
    and repeat a sample only after all others.
    """

    def __init__(self, in_amplified_set: torch.Tensor, share: float, seed: int):
        self.outside = (~in_amplified_set.cpu()).nonzero().flatten()
        self.num_samples = len(in_amplified_set)
        self.share = share if len(self.outside) else 0.0
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which changes the order."""
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
    """Draws N samples per epoch, with replacement and in proportion to their weights.

    Unlike torch's `WeightedRandomSampler`, draws depend on seed and epoch only: they survive a resume, and all
    processes draw the same.

    Args:
        weights (`torch.Tensor` of shape (N,)): Weights, 0 or more and not all 0.
        seed (`int`): Seed of the draws.
    """

    def __init__(self, weights: torch.Tensor, seed: int):
        self.cumulative = weights.double().cpu().cumsum(0)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which changes the draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cumulative)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "weighted draws", self.epoch))
        places = torch.rand(len(self), generator=generator, dtype=torch.float64) * self.cumulative[-1]
        return iter(torch.searchsorted(self.cumulative, places, right=True).clamp(max=len(self) - 1).tolist())
