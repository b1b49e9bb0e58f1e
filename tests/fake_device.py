"""A device without hardware, in a process of its own: what is on it has shapes and no values.

Tensors on the host are real; those on the device are `FakeTensor`s, so loops run from the first batch to the end of
training, and each transfer between host and device and each wait for the device is seen. What the host asks the device
for is zeros. The device is PyTorch's reserved one (`PrivateUse1`): without a driver, autograd refuses `cuda`.
"""

import os
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "gpu"
_SHAPE_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount")
_ASKS_FOR_A_VALUE = ("_local_scalar_dense", "is_nonzero", "equal")


def set_up(processes: int = 1) -> None:
    """Makes the device known and lets Accelerate choose it; of several processes, this is the first one."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    os.environ["ACCELERATE_TORCH_DEVICE"] = NAME
    move = nn.Module.to

    def move_once(module: nn.Module, *args: object, **kwargs: object) -> nn.Module:
        """FakeTensors cannot be exchanged in a module, as moving it to where it is already would do."""
        there = all(isinstance(tensor, FakeTensor) for tensor in [*module.parameters(), *module.buffers()])
        return module if there else move(module, *args, **kwargs)

    nn.Module.to = move_once
    if processes > 1:
        import torch.distributed as dist
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())


@dataclass
class Traffic:
    """What went on between host and device.

    Attributes:
        launches: Operators on the device, by name.
        uploads: Copies to the device, by shape and type.
        waits: What makes the host wait, or is read on the device from the host's memory, by name.
    """

    launches: Counter = field(default_factory=Counter)
    uploads: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)


class Device(TorchDispatchMode):
    """While it is entered, tensors that are sent to the device are there, and `traffic` says what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.traffic = Traffic()
        self._lifting: list[bool] = []

    def __enter__(self):
        self._lifting.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device) as a tensor of the host and its upload
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self._lifting.pop())
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if function.namespace == "aten" and any(tensor.is_inference() for tensor in tensors):  # not yet taken apart
            with self:
                parts = function.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        on_device = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        on_host = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor)]
        target = torch.device(kwargs.get("device") or (on_device[0].device if on_device else "cpu"))
        if not on_device and target.type == "cpu":
            return function(*args, **kwargs)
        if name in _ASKS_FOR_A_VALUE:
            self.traffic.waits.append(name)
            return False if name != "_local_scalar_dense" else torch.zeros((), dtype=on_device[0].dtype).item()
        if name in _SHAPE_BY_VALUES:
            self.traffic.waits.append(name)
            if name == "nonzero":
                with self.fake:
                    return torch.empty(0, on_device[0].dim(), dtype=torch.int64, device=on_device[0].device)
        if name == "_to_copy" and on_device and target.type == "cpu":
            self.traffic.waits.append("copy to the host")
            return torch.zeros(on_device[0].shape, dtype=kwargs.get("dtype") or on_device[0].dtype)
        if name == "copy_" and on_device and not isinstance(args[0], FakeTensor):
            self.traffic.waits.append("copy to the host")
            return args[0].zero_()
        if name in ("_to_copy", "copy_") and on_host:
            self.traffic.uploads.append(f"{tuple(on_host[0].shape)} {on_host[0].dtype}")
            if name == "_to_copy":
                with self.fake:
                    return torch.empty_like(on_host[0], dtype=kwargs.get("dtype"), device=target)
        elif on_host and on_device:
            numbers = all(tensor.dim() == 0 for tensor in on_host) and not name.startswith("index")
            if not numbers:  # a number travels with the launch
                self.traffic.waits.append(f"{name} with a tensor of the host")
        elif not function.is_view and function.namespace == "aten":
            self.traffic.launches[name] += 1
        with self.fake:
            return function(*args, **kwargs)
