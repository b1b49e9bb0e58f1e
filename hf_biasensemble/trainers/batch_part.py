"""Which part of an optimisation step one forward pass is, when processes or accumulated batches share it.

Gradients are averaged over the processes and over the accumulated batches. So that the sum of all parts is the loss of
one batch that holds all samples, a mean is the part's own sum, divided by the count of the whole step and multiplied
by the number of parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from hf_biasensemble.collectives import from_first, gather_rows, num_processes
from hf_biasensemble.objectives import masked_mean


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
        step_amplified: How many samples of the step are in the bias-amplified set, where there is one.
    """

    first: int
    num_samples: int
    step_samples: int
    num_parts: int
    step_amplified: torch.Tensor | None = None

    def own_samples(self, num_rows: int) -> int:
        """How many of the rows here are samples and no repetition; they come first."""
        return min(max(self.num_samples - self.first, 0), num_rows)

    def mean(self, values: torch.Tensor, in_amplified_set: torch.Tensor | None = None) -> torch.Tensor:
        """This part's share of the step's mean of values (B, ...) over all samples, or over those in the set."""
        count = self.own_samples(len(values))
        values = values[:count]
        if in_amplified_set is None:
            return values.sum(dim=0) * (self.num_parts / self.step_samples)
        assert self.step_amplified is not None
        inside = (values * in_amplified_set[:count]).sum()
        return inside * self.num_parts / self.step_amplified.clamp(min=1)

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
        places = torch.arange(num_rows * num_processes())
        places[: self.num_samples] = torch.randperm(self.num_samples)
        return from_first(places.to(device))[self.first : self.first + num_rows]


class WholeBatch:
    """One process, no accumulation: the batch is all there is to an optimisation step."""

    def mean(self, values: torch.Tensor, in_amplified_set: torch.Tensor | None = None) -> torch.Tensor:
        """Mean of values (B, ...) over all samples, or over those in the set."""
        return masked_mean(values, in_amplified_set)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows."""
        return rows

    def permutation(self, num_rows: int, device: torch.device) -> torch.Tensor:
        """A random permutation (B,) of the rows."""
        return torch.randperm(num_rows).to(device)
