"""What the processes of a run tell each other. With one process, each of these gives back what it was given."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows (B, ...) of all processes, one process after another: (processes * B, ...). Gradients flow back.

    Each process must hold equally many.
    """
    if num_processes() == 1:
        return rows
    return _GatherRows.apply(rows)


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of the values of all processes."""
    if num_processes() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def largest(value: torch.Tensor) -> torch.Tensor:
    """The largest of the values of all processes."""
    if num_processes() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def mean_of_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of the values of all processes."""
    return values if num_processes() == 1 else total(values) / num_processes()


def from_process(values: torch.Tensor, process: int) -> torch.Tensor:
    """The values that this process holds, on all of them; writes them over those that are there."""
    if num_processes() > 1:
        dist.broadcast(values, src=process)
    return values


def from_first(values: torch.Tensor) -> torch.Tensor:
    """The values that the first process holds, on all of them; writes them over those that are there."""
    return from_process(values, 0)


def leave() -> None:
    """Ends what this process tells the others with, once all went well and before Python ends.

    Where a thread of gloo is still there then, it may let go of its last tensor too late, which aborts the process
    (PyTorch's issue 190489); the launcher stops the other processes, the first of which may still be writing.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share_buffers(model: nn.Module) -> None:
    """Gives all processes the first one's buffers (BatchNorm's statistics), which are the ones that are saved."""
    for buffer in model.buffers():
        from_first(buffer)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(rows)
        gathered = [torch.empty_like(rows) for _ in range(num_processes())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """What all processes made of the rows of this one, added up."""
        return total(gradient)[dist.get_rank() * ctx.num_rows :][: ctx.num_rows]
