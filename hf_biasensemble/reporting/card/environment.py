"""What a run was made with and on, for its results and card."""

import datasets
import timm
import torch
import transformers

import hf_biasensemble


def environment_of(device: torch.device) -> dict[str, str]:
    """`device` (the name of the GPU, or `"processors"`) and the versions of the libraries that figures depend on."""
    names = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: "processors"}
    return {
        "device": names.get(device.type, str)(device),
        "hf_biasensemble": hf_biasensemble.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "datasets": datasets.__version__,
        "timm": timm.__version__,
    }
