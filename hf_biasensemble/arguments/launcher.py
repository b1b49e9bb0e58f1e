"""What `accelerate launch` asks for through the environment, as options of the run that states it."""

import os
from typing import Any

from hf_biasensemble.arguments.options import require


def take_over_launcher(args: Any) -> None:
    """Sets the options that mean what `accelerate launch` asks for, so that `config.yaml` states it and a resumed run
    is compared with it. An option that is set already wins; what is not supported is refused."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    require(precision in ("no", "bf16", "fp16"), "accelerate launch --mixed_precision", "no, bf16 or fp16", precision)
    if precision != "no" and not (args.bf16 or args.fp16):
        setattr(args, precision, True)
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no" and not args.torch_compile:
        args.torch_compile, args.torch_compile_backend = True, backend
        args.torch_compile_mode = os.environ.get("ACCELERATE_DYNAMO_MODE", args.torch_compile_mode)
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        asked = os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true", "yes")
        require(not asked, "accelerate launch", "processes that each hold the whole network", name.lower())
