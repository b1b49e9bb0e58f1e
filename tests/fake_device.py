"""A device without hardware, in a process of its own: what is on it has shapes and no values.

Tensors on the host are real; those on the device are `FakeTensor`s, so loops run from the first batch to the end of
training, and each transfer between host and device and each wait for the device is seen. What the host asks the device
for is zeros. The device is PyTorch's reserved one (`PrivateUse1`): without a driver, autograd refuses `cuda`.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "gpu"
MEMORY = int(os.environ.get("MEMORY_OF_DEVICE", 1 << 33))
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
    torch.Stream = Stream
    torch.accelerator.current_stream = lambda device=None: Stream.current
    torch.accelerator.get_memory_info = lambda device=None: (MEMORY, MEMORY)
    Stream.main = Stream.current = Stream(NAME)
    if processes > 1:
        import torch.distributed as dist
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())


class Stream(torch.Stream):
    """Counts what it was given, and knows up to which count it has waited for others."""

    main: ClassVar["Stream"]
    current: ClassVar["Stream"]

    def __init__(self, device: torch.device | str):
        self.given = 0
        self.waited: dict[Stream, int] = {}
        self._before: list[Stream] = []

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __enter__(self):
        self._before.append(Stream.current)
        Stream.current = self
        return self

    def __exit__(self, *error):
        Stream.current = self._before.pop()

    def record_event(self, event=None):
        return self, self.given

    def wait_event(self, event):
        stream, given = event
        self.waited[stream] = max(given, self.waited.get(stream, 0))

    def may_read(self, tensor: torch.Tensor) -> bool:
        """Whether what another stream copied is there by now, and stays for as long as this one needs it."""
        stream, given = getattr(tensor, "copied", (self, 0))
        return stream is self or (self.waited.get(stream, 0) >= given and hasattr(tensor, "kept"))


@dataclass
class Traffic:
    """What went on between host and device.

    Attributes:
        launches: Operators on the device, by name.
        uploads: Copies to the device, by shape and type.
        beside: How many of them were copied on another stream than the one that computes.
        waits: What makes the host wait, or is read on the device from the host's memory, by name. A copy from memory
            that is not pinned, or one that is not to go on meanwhile, is such a wait.
        races: Operators that read what another stream may still be copying, or may copy something else over.
    """

    launches: Counter = field(default_factory=Counter)
    uploads: list[str] = field(default_factory=list)
    beside: int = 0
    waits: list[str] = field(default_factory=list)
    races: list[str] = field(default_factory=list)


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
        if name == "is_pinned":
            return hasattr(args[0], "pinned")
        if name in ("pin_memory", "_pin_memory"):
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if name == "record_stream":
            args[0].kept = True
            return None
        self.traffic.races += [name for tensor in on_device if not Stream.current.may_read(tensor)]
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
            goes_on = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            if not (goes_on and hasattr(on_host[0], "pinned")):
                self.traffic.waits.append(f"copy of {tuple(on_host[0].shape)} to the device")
            if name == "_to_copy":
                with self.fake:
                    copy = torch.empty_like(on_host[0], dtype=kwargs.get("dtype"), device=target)
                if Stream.current is not Stream.main:
                    self.traffic.beside += 1
                    Stream.current.given += 1
                    copy.copied = Stream.current, Stream.current.given
                return copy
        elif on_host and on_device:
            numbers = all(tensor.dim() == 0 for tensor in on_host) and not name.startswith("index")
            if not numbers:  # a number travels with the launch
                self.traffic.waits.append(f"{name} with a tensor of the host")
        elif not function.is_view and function.namespace == "aten":
            self.traffic.launches[name] += 1
        with self.fake:
            return function(*args, **kwargs)
