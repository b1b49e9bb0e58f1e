"""Which part of an optimisation step one forward pass is, when processes or accumulated batches share it.

Gradients are averaged over the processes and over the accumulated batches. So that the sum of all parts is the loss of
one batch that holds all samples, a mean is the part's own sum, divided by the count of the whole step and multiplied
by the number of parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hf_biasensemble.internal.collectives import from_process, gather_rows, num_processes
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.losses.objectives import group_sums, masked_mean


@dataclass(frozen=True)
class BatchPart:
    """The rows of this process in one batch of all processes.

    The batch of all processes is their rows one after another. Its samples are the first `num_samples` of them; the
    rest repeats samples to fill the last batch of an epoch up, and counts nowhere.

    Attributes:
        first: Where the rows of this process start in the batch of all processes.
        num_samples: Samples in the batch of all processes.
        step_samples: Samples in the whole optimisation step, over processes and accumulated batches.
        num_parts: Parts of the step: processes times accumulated batches.
        group_counts: How many samples of the step are in each group (G,), where the trainer has groups.
    """

    first: int
    num_samples: int
    step_samples: int
    num_parts: int
    group_counts: torch.Tensor | None = None

    def own_samples(self, num_rows: int) -> int:
        """How many of the rows here are samples and no repetition; they come first."""
        return min(max(self.num_samples - self.first, 0), num_rows)

    def mean(self, values: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
        """This part's share of the step's mean of values (B, ...).

        Args:
            values (`torch.Tensor` of shape (B, ...)): One for each row here; (B,) with groups.
            groups (`torch.Tensor` of shape (B,), *optional*): The group of each sample, as the trainer has them from
                [`~DebiasingTrainer.group_samples`], for the mean of each (G,), 0 for one that the step lacks. Or a
                mask, where the two groups are outside and inside it, for the mean over its samples.
        """
        count = self.own_samples(len(values))
        values = values[:count]
        if groups is None:
            return values.sum(dim=0) * (self.num_parts / self.step_samples)
        if self.group_counts is None:
            raise BiasEnsembleError(
                "a mean over groups of samples: expected a trainer that says which group each training sample is in, "
                "found none; call group_samples in its __init__"
            )
        counts = self.group_counts.clamp(min=1)
        if groups.dtype == torch.bool:
            return (values * groups[:count]).sum() * self.num_parts / counts[1]
        return group_sums(values, groups[:count], len(counts)) * self.num_parts / counts

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The samples (S, ...) of all processes, without repetitions."""
        return gather_rows(rows)[: self.num_samples]

    def draw(self, make: Callable[[int], torch.Tensor], num_rows: int) -> torch.Tensor:
        """The rows here (..., B, ...) of what `make` draws for the samples of all processes (..., S, ...).

        The random states of the processes are alike, so each sample gets what one process would draw for it.
        """
        drawn = make(self.num_samples)
        places = self.first + torch.arange(num_rows, device=drawn.device)
        return drawn.index_select(1, places % self.num_samples)

    def permutation(self, num_rows: int, device: torch.device) -> torch.Tensor:
        """Where the rows here (B,) get their features from: places in the batch of all processes, whose samples are
        permuted among themselves, as the first process draws it."""
        places = torch.arange(num_rows * num_processes(), device=device)
        places[: self.num_samples] = torch.randperm(self.num_samples, device=device)
        return from_process(places)[self.first : self.first + num_rows]


@dataclass(frozen=True)
class WholeBatch:
    """One process, no accumulation: the batch is all there is to an optimisation step.

    Attributes:
        num_groups: Groups of training samples that the trainer has, if any.
    """

    num_groups: int = 0

    def mean(self, values: torch.Tensor, groups: torch.Tensor | None = None) -> torch.Tensor:
        """Mean of values (B, ...) over all samples, over those of a mask (B,), or of each group (G,)."""
        if groups is None or groups.dtype == torch.bool:
            return masked_mean(values, groups)
        counts = group_sums(torch.ones_like(values), groups, self.num_groups)
        return group_sums(values, groups, self.num_groups) / counts.clamp(min=1)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows."""
        return rows

    def permutation(self, num_rows: int, device: torch.device) -> torch.Tensor:
        """A random permutation (B,) of the rows, drawn on the device."""
        return torch.randperm(num_rows, device=device)
