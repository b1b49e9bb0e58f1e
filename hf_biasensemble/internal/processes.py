"""The processes of a launch, from environment variables, before torch connects them."""

import logging
import os

from hf_biasensemble.internal.errors import BiasEnsembleError

logger = logging.getLogger(__name__)


def is_first() -> bool:
    """Whether this is the first or only process of a launch."""
    return os.environ.get("RANK", "0") == "0"


def number_started() -> int:
    """The number of processes in this launch, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print_once(line: str) -> None:
    """Prints a line from the first process of a launch only."""
    if is_first():
        print(line, flush=True)


def print_whole(line: str) -> None:
    """Prints a line in one write, so lines of several processes don't mix."""
    print(f"{line}\n", end="", flush=True)


def refuse_data_parallel(gpus: int) -> None:
    """Raises `BiasEnsembleError` if one process has several GPUs: the Trainer would multiply its batch size."""
    if gpus > 1:
        raise BiasEnsembleError(
            f"expected one GPU for each process, found one process and {gpus} GPUs; start as many processes with "
            f"accelerate launch --num_processes {gpus} train.py ..., or name one GPU with CUDA_VISIBLE_DEVICES=0"
        )


def warn_of_missing_processes(started: int) -> None:
    """Warns if `accelerate launch` started one process instead of several, as it does without a GPU."""
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
    """The number of processes that an `accelerate launch` command line requests, by flag or config file; else 1."""
    if "launch" not in words or not any("accelerate" in word for word in words[: words.index("launch")]):
        return 1
    from accelerate.commands.config import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    asked = launch_command_parser().parse_args(words[words.index("launch") + 1 :])
    if asked.num_processes is None and (asked.config_file or (os.path.isfile(default_config_file) and not asked.cpu)):
        return load_config_from_file(asked.config_file).num_processes
    return asked.num_processes or 1
