"""Which of several processes this is, before any of them was set up, and whether all that were asked for are there."""

import logging
import os

from hf_biasensemble.internal.errors import BiasEnsembleError

logger = logging.getLogger(__name__)


def is_first() -> bool:
    """Whether this is the first process of a launch, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def number_started() -> int:
    """How many processes were launched together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print_once(line: str) -> None:
    """Prints a line from the first process of a launch only."""
    if is_first():
        print(line, flush=True)


def refuse_data_parallel(gpus: int) -> None:
    """Refuses to spread one process over several GPUs, as the Trainer would: its batch would grow with them.

    Raises:
        `BiasEnsembleError`: If this process would use more than one GPU.
    """
    if gpus > 1:
        raise BiasEnsembleError(
            f"expected one GPU for each process, found one process and {gpus} GPUs; start as many processes with "
            f"accelerate launch --num_processes {gpus} train.py ..., or name one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def warn_of_missing_processes(started: int) -> None:
    """Warns if `accelerate launch` was asked for several processes and, as it does without a GPU, started one."""
    import psutil  # type: ignore[import-untyped]

    if started > 1:
        return
    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
    except psutil.Error:
        return
    asked = _processes_asked_for(words)
    if asked > 1:
        logger.warning(
            "warning: accelerate launch was asked for %d processes and started one; without GPUs use "
            "torchrun --nproc_per_node %d",
            asked,
            asked,
        )


def _processes_asked_for(words: list[str]) -> int:
    """The number in the command line of `accelerate launch`; 1 for any other."""
    if "launch" not in words or not any("accelerate" in word for word in words[: words.index("launch")]):
        return 1
    for place, word in enumerate(words):
        name, _, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            value = value or next(iter(words[place + 1 : place + 2]), "")
            return int(value) if value.isdecimal() else 1
    return 1
