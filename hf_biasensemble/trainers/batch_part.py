"""Means over whole optimisation steps that are split over processes and accumulated batches.

Gradients are averaged over these parts. To get the loss of one batch with all samples, a mean is the sum of the part,
divided by the sample count of the whole step and multiplied by the number of parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hf_biasensemble.internal.collectives import from_process, gather_rows, num_processes
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.losses.objectives import group_sums, masked_mean


@dataclass(frozen=True)
class BatchPart:
    """The rows of this process in the batch of all processes, which concatenates the rows of each.

    The first `num_samples` rows are samples. The rest pads the last batch of an epoch with repetitions and is ignored.

    Attributes:
        first: Position of this process's first row in the batch of all processes.
        num_samples: Samples in the batch of all processes.
        step_samples: Samples in the whole optimisation step.
        num_parts: Parts of the step: processes times accumulated batches.
        group_counts: Samples of the step in each group (G,), if the trainer has groups.
    """

    first: int
    num_samples: int
    step_samples: int
    num_parts: int
    group_counts: torch.Tensor | None = None

    def own_samples(self, num_rows: int) -> int:
        """Number of rows of this process before the padding."""
        return min(max(self.num_samples - self.first, 0), num_rows)

    def mean(self, values: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
        """This part's contribution to the mean over the whole step.

        Args:
            values (`torch.Tensor` of shape (B, ...)): Values of the rows of this process; (B,) with groups.
            groups (`torch.Tensor` of shape (B,), *optional*): Groups as in [`~DebiasingTrainer.group_samples`]. With
                int64 groups, the means (G,) of all groups, 0 for a group without samples; with a mask, the mean over
                the samples that it selects.
        """
        count = self.own_samples(len(values))
        values = values[:count]
        if groups is None:
            return values.sum(dim=0) * (self.num_parts / self.step_samples)
        if self.group_counts is None:
            raise BiasEnsembleError(
                "part.mean with groups: expected a trainer with groups of training samples, found none; call "
                "group_samples in its __init__"
            )
        counts = self.group_counts.clamp(min=1)
        if groups.dtype == torch.bool:
            return (values * groups[:count]).sum() * self.num_parts / counts[1]
        return group_sums(values, groups[:count], len(counts)) * self.num_parts / counts

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (S, ...) of all processes, without padding."""
        return gather_rows(rows)[: self.num_samples]

    def draw(self, make: Callable[[int], torch.Tensor], num_rows: int) -> torch.Tensor:
        """The draws of this process's rows (..., B, ...) from `make`, which draws for all samples (..., S, ...).

        All processes have the same random state, so each sample gets the draw that it would get in a single process.
        """
        drawn = make(self.num_samples)
        places = self.first + torch.arange(num_rows, device=drawn.device)
        return drawn.index_select(1, places % self.num_samples)

    def permutation(self, num_rows: int, device: torch.device) -> torch.Tensor:
        """Positions (B,) in the batch of all processes that this process's rows take their features from: a random
        permutation of the samples, drawn by the first process."""
        places = torch.arange(num_rows * num_processes(), device=device)
        places[: self.num_samples] = torch.randperm(self.num_samples, device=device)
        return from_process(places)[self.first : self.first + num_rows]


@dataclass(frozen=True)
class WholeBatch:
    """An optimisation step that is a single batch of a single process; `num_groups` as in the trainer."""

    num_groups: int = 0

    def mean(self, values: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
        """Mean of values (B, ...) over all samples or those in a mask (B,), or the mean of each group (G,)."""
        if groups is None or groups.dtype == torch.bool:
            return masked_mean(values, groups)
        counts = group_sums(torch.ones_like(values), groups, self.num_groups)
        return group_sums(values, groups, self.num_groups) / counts.clamp(min=1)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows themselves."""
        return rows

    def permutation(self, num_rows: int, device: torch.device) -> torch.Tensor:
        """A random permutation (B,), drawn on the device."""
        return torch.randperm(num_rows, device=device)
