"""Communication between the processes of a run; in a single process, the functions leave values unchanged."""

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
_is_alone = False


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _is_alone else 1


def is_alone() -> bool:
    """Whether this process is inside [`shared_out`] and works independently of the others."""
    return _is_alone


def shared_out(work: Callable[[int], Result], count: int) -> list[Result]:
    """Returns `work(number)` for each number below `count`, in all processes. Process r of n computes r, r + n, ...

    Meanwhile a process sees no others, so results equal those of a single process. There is no timeout. `work` must
    create its training arguments itself. If it raises `BiasEnsembleError`, all processes raise that of the lowest
    number.
    """
    global _is_alone
    processes = num_processes()
    if processes == 1:
        return [work(number) for number in range(count)]
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=365))  # work takes longer than a training step
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
    """A copy of the state of an `Accelerator` with this process only."""
    state = copy.copy(state)
    state.distributed_type, state.num_processes, state.process_index = type(state.distributed_type).NO, 1, 0
    return state


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenates the rows (B, ...) of all processes; B must be the same in each. Gradients flow back."""
    if num_processes() == 1:
        return rows
    return _GatherRows.apply(rows)


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of the values over all processes."""
    if num_processes() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def largest(value: torch.Tensor) -> torch.Tensor:
    """The maximum over all processes, written into `value`."""
    if num_processes() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def mean_of_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of the values over all processes."""
    return values if num_processes() == 1 else total(values) / num_processes()


def from_process(values: torch.Tensor, process: int = 0) -> torch.Tensor:
    """Broadcasts the values of one process to all, in place."""
    if num_processes() > 1:
        dist.broadcast(values, src=process)
    return values


def meet(use_cpu: bool) -> None:
    """Connects the processes of a launch in commands that have no training arguments to do it."""
    if number_started() > 1:
        from accelerate import PartialState

        PartialState(cpu=use_cpu)


def leave() -> None:
    """Closes the process group after success, before Python exits. A gloo thread still alive at exit may abort the
    process (PyTorch issue 190489), and the launcher would then kill the first process while it may still write."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share_buffers(model: nn.Module) -> None:
    """Copies the buffers (BatchNorm statistics) of the first process, which saves the model, to all others."""
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
        """Sums the gradients that all processes have for the rows of this one."""
        return total(gradient)[dist.get_rank() * ctx.num_rows :][: ctx.num_rows]
