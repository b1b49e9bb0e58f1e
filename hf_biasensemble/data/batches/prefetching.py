"""Batches that travel to the device while it computes on the one before, as timm's `PrefetchLoader` has them do.

A batch is copied into pinned memory and from there to the device, on a stream of its own. Nothing but the work on that
batch waits for it: neither the host nor the batch before. Who asks for the next batch before working on this one, as
Accelerate's loaders do, has copying and computing at the same time.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import torch

Batch = dict[str, torch.Tensor]


def has_own_memory(device: torch.device) -> bool:
    """Whether tensors are copied to the device, which can compute meanwhile. Others share the host's memory."""
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and device.type == accelerator.type != "mps"


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same tensor on the device, on the current stream; the host goes on meanwhile."""
    if tensor.device.type == device.type or not has_own_memory(device):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Prefetch:
    """Sends each batch on its way as soon as a loader has gathered it; the `collate_fn` of a loader without workers.

    Args:
        device (`torch.device`): Where the batches go. What comes out for a processor is the batch itself.
    """

    def __init__(self, device: torch.device):
        self.stream = torch.Stream(device=device) if has_own_memory(device) else None

    def __call__(self, batch: Batch) -> "Batch | BatchOnItsWay":
        return batch if self.stream is None else BatchOnItsWay(batch, self.stream)


class BatchOnItsWay:
    """A batch that is being copied to the stream's device, until [`~BatchOnItsWay.to`] hands it over."""

    def __init__(self, batch: Batch, stream: torch.Stream):
        with stream:
            self.batch = {name: upload(tensor, stream.device) for name, tensor in batch.items()}
        self.copied = stream.record_event()

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        """The batch on the device: what the current stream is given from now on comes after the copy.

        Accelerate's loaders call this where they would copy a batch.
        """
        current = torch.accelerator.current_stream(device)
        current.wait_event(self.copied)
        for tensor in self.batch.values():
            tensor.record_stream(current)  # else its memory could take the next batch while this one is worked on
        return self.batch


def prefetched(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device, each sent on its way before the one ahead of it is given out."""
    if not has_own_memory(device):
        yield from ({name: tensor.to(device) for name, tensor in batch.items()} for batch in batches)
        return
    for batch, _ in pairwise(chain(map(Prefetch(device), batches), [None])):
        yield batch.to(device)  # type: ignore[union-attr]
