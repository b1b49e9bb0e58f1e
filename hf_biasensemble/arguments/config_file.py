"""The settings of a run as `config.yaml` states them."""

import dataclasses
from collections.abc import Collection
from typing import Any

from transformers import TrainingArguments

from hf_biasensemble.arguments.training import DebiasingArguments


def resolved(*arguments: Any, hidden: Collection[str] = ()) -> dict[str, Any]:
    """All settings as plain values, for `config.yaml`: what differs from the defaults, and what a run should state.

    Args:
        arguments (dataclasses): The parts of the settings; one that is `None` is left out.
        hidden (`Collection[str]`, *optional*): Fields that are no options here.
    """
    settings: dict[str, Any] = {}
    for part in arguments:
        if part is None:
            continue
        if not isinstance(part, TrainingArguments):
            settings |= dataclasses.asdict(part)
            continue
        ours = [kind for kind in type(part).__mro__ if issubclass(kind, DebiasingArguments)]
        stated = {"seed", *(name for kind in ours for name in kind.__annotations__)} - set(hidden)
        defaults = {f.name: f.default for f in dataclasses.fields(part)}
        for name, value in part.to_dict().items():
            if name in stated or (name in _CHANGING_A_RUN and value != defaults[name]):
                settings[name] = value
        settings["report_to"] = settings["report_to"] or ["none"]
    return settings


_CHANGING_A_RUN = {
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "dataloader_in_order",
    "ddp_broadcast_buffers",
    "eval_delay",
    "eval_on_start",
    "fp16",
    "full_determinism",
    "gradient_accumulation_steps",
    "lr_scheduler_kwargs",
    "output_dir",
    "tf32",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "train_sampling_strategy",
    "use_cpu",
    "warmup_steps",
    "weight_decay",
}
"""Options of `TrainingArguments` that a run depends on: those left out say where it runs and what is told of it."""
