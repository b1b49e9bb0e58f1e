"""State dicts as safetensors can write them."""

from collections.abc import Mapping

import torch


def separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, each contiguous and in memory of its own, which is copied only where needed. A network may
    hold one weight under two names, which safetensors refuses."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.contiguous() if place not in seen else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(place)
    return found
