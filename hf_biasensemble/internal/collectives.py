"""Communication between the processes of a run. With a single process, each function returns what it was given."""

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import number_started

Result = TypeVar("Result")
_ANY_TIME = timedelta(days=365)
_is_alone = False


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _is_alone else 1


def is_alone() -> bool:
    """Whether this is one of several processes and currently works by itself, inside [`shared_out`]."""
    return _is_alone


def shared_out(work: Callable[[int], Result], count: int) -> list[Result]:
    """Calls `work` with each number below `count`, in process r of n with r, r + n, r + 2n, ..., and gives all results
    to all processes.

    Meanwhile each process finds no others, so the results are those of a single process. They are pickled. A process
    waits for the others however long their work takes.

    Args:
        work (`Callable`): Returns the result for a number. It must create its training settings itself.
        count (`int`): 0 or more.

    Returns:
        `list`: The results in order.

    Raises:
        `BiasEnsembleError`: In all processes, if `work` raises it for a number; for the first such number.
    """
    global _is_alone
    processes = num_processes()
    if processes == 1:
        return [work(number) for number in range(count)]
    group: Any = dist.new_group(backend="gloo", timeout=_ANY_TIME)  # --ddp_timeout is for the collectives of a step
    own: list[Result | BiasEnsembleError] = []
    _is_alone = True
    try:
        for number in range(dist.get_rank(), count, processes):
            own.append(work(number))
    except BiasEnsembleError as error:
        own.append(error)
    finally:
        _is_alone = False
    found: list[Any] = [None] * processes
    dist.all_gather_object(found, own, group=group)
    dist.destroy_process_group(group)
    results = []
    for number in range(count):
        result = found[number % processes][number // processes]
        if isinstance(result, BiasEnsembleError):
            raise result
        results.append(result)
    return results


def of_one_process(state: Any) -> Any:
    """A copy of the state of an `Accelerator` that says that there are no other processes."""
    state = copy.copy(state)
    state.distributed_type, state.num_processes, state.process_index = type(state.distributed_type).NO, 1, 0
    return state


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


def from_process(values: torch.Tensor, process: int = 0) -> torch.Tensor:
    """The values that one process holds, by default the first, on all of them; overwrites those that are there."""
    if num_processes() > 1:
        dist.broadcast(values, src=process)
    return values


def meet(use_cpu: bool) -> None:
    """Connects the processes of a launch, for commands without training settings, which otherwise connect them."""
    if number_started() > 1:
        from accelerate import PartialState

        PartialState(cpu=use_cpu)


def leave() -> None:
    """Closes the process group, after success and before Python exits.

    A gloo thread that is still alive at exit may free its last tensor too late and abort the process (PyTorch issue
    190489). The launcher then kills the other processes, of which the first may still be writing.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share_buffers(model: nn.Module) -> None:
    """Gives all processes the first one's buffers (BatchNorm's statistics), which are the ones that are saved."""
    for buffer in model.buffers():
        from_process(buffer)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(rows)
        gathered = [torch.empty_like(rows) for _ in range(num_processes())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """The sum of the gradients that all processes have for the rows of this one."""
        return total(gradient)[dist.get_rank() * ctx.num_rows :][: ctx.num_rows]
