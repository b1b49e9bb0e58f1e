"""Device, precision and batch size of commands that do not train."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hf_biasensemble.arguments.options import Options, PositiveInt, option
from hf_biasensemble.internal.errors import require

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class InferenceArguments(Options):
    """Device, precision and batch size of a command that does not train."""

    _argument_group_name: ClassVar[str] = "inference"

    batch_size: PositiveInt = option(512, "Images per batch.")
    use_cpu: bool = option(False, "Use the CPU even if Accelerate finds another device.")
    bf16: bool = option(False, "Run the model in mixed precision, bfloat16.")
    fp16: bool = option(False, "Run the model in mixed precision, float16.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.bf16 and self.fp16), "--bf16 and --fp16", "one of the two", "both")

    @property
    def device(self) -> "torch.device":
        """The device that Accelerate selects, or the CPU."""
        import torch
        from accelerate import PartialState

        return torch.device("cpu") if self.use_cpu else PartialState().device

    def placed(self, model: "nn.Module") -> "nn.Module":
        """The model on the device in evaluation mode, with float32 outputs also in mixed precision."""
        import torch
        from accelerate.utils import convert_outputs_to_fp32

        model.to(self.device).eval()
        if self.bf16 or self.fp16:
            dtype = torch.bfloat16 if self.bf16 else torch.float16
            autocast = torch.autocast(self.device.type, dtype)
            model.forward = convert_outputs_to_fp32(autocast(model.forward))  # like Accelerator.prepare_model
        return model
