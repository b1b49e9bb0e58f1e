"""Copies each batch to the device while the device computes on the previous one, like timm's `PrefetchLoader`.

Batches go through pinned memory on a separate stream. Only work on the batch itself waits for its copy. Copying and
computing overlap if the next batch is requested before work on this one starts, as Accelerate's loaders do.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import torch

Batch = dict[str, torch.Tensor]


def has_own_memory(device: torch.device) -> bool:
    """Whether tensors must be copied to the device; CPU and MPS use the host's memory."""
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and device.type == accelerator.type != "mps"


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a tensor to the device on the current stream, without blocking the host."""
    if tensor.device.type == device.type or not has_own_memory(device):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Prefetch:
    """`collate_fn` of a loader without workers: starts the copy to the device as soon as a batch is ready."""

    def __init__(self, device: torch.device):
        self.stream = torch.Stream(device=device) if has_own_memory(device) else None

    def __call__(self, batch: Batch) -> "Batch | BatchOnItsWay":
        return batch if self.stream is None else BatchOnItsWay(batch, self.stream)


class BatchOnItsWay:
    """A batch that is being copied to the device of the stream."""

    def __init__(self, batch: Batch, stream: torch.Stream):
        with stream:
            self.batch = {name: upload(tensor, stream.device) for name, tensor in batch.items()}
        self.copied = stream.record_event()

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        """Makes the current stream wait for the copy. Accelerate's loaders call this to move a batch."""
        current = torch.accelerator.current_stream(device)
        current.wait_event(self.copied)
        for tensor in self.batch.values():
            tensor.record_stream(current)  # or the next batch could reuse its memory too early
        return self.batch


def prefetched(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device; the copy of each starts before the previous one is yielded."""
    if not has_own_memory(device):
        yield from ({name: tensor.to(device) for name, tensor in batch.items()} for batch in batches)
        return
    for batch, _ in pairwise(chain(map(Prefetch(device), batches), [None])):
        yield batch.to(device)  # type: ignore[union-attr]
