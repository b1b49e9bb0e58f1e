"""The settings of a run as `config.yaml` states them."""

import dataclasses
from collections.abc import Collection
from typing import Any

from transformers import TrainingArguments

from hf_biasensemble.arguments.training import DebiasingArguments

_STATED = frozenset(
    """output_dir weight_decay adam_beta1 adam_beta2 adam_epsilon lr_scheduler_kwargs warmup_steps
    gradient_accumulation_steps train_sampling_strategy eval_delay eval_on_start full_determinism use_cpu bf16 fp16
    tf32 torch_compile torch_compile_backend torch_compile_mode ddp_broadcast_buffers dataloader_in_order""".split()
)
"""Options of `TrainingArguments` that a run depends on, stated if they are not the default. The others say where it
runs and where it reports to."""


def resolved(*arguments: Any, hidden: Collection[str] = ()) -> dict[str, Any]:
    """All settings as plain values, for `config.yaml`: of dataclasses (or `None`), without those that are `hidden`."""
    settings: dict[str, Any] = {}
    for part in arguments:
        if not isinstance(part, TrainingArguments):
            settings |= dataclasses.asdict(part) if part is not None else {}
            continue
        ours = [kind for kind in type(part).__mro__ if issubclass(kind, DebiasingArguments)]
        always = {"seed", *(name for kind in ours for name in kind.__annotations__)} - set(hidden)
        defaults = {field.name: field.default for field in dataclasses.fields(part)}
        for name, value in part.to_dict().items():
            if name in always or (name in _STATED and value != defaults[name]):
                settings[name] = value
        settings["report_to"] = settings["report_to"] or ["none"]
    return settings
