"""`hf-biasensemble COMMAND ...`: each command is a small module with a `main(argv) -> int`.

Its docstring is its help; `hf-biasensemble --help` shows the first line up to the colon.
"""

import difflib
import importlib
import os
import sys
from pathlib import Path

from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.internal.shipped import summary_of

GROUPS = {
    "before training": ("check-data", "make-dataset"),
    "training": ("train", "sweep"),
    "looking at images and models": ("audit", "test", "judge", "explain"),
    "using models": ("predict", "push", "export-onnx", "import-reference"),
    "housekeeping": ("cache",),
}
COMMANDS = {name: group for group, names in GROUPS.items() for name in names}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate")  # messages of CUDA, torch and numpy


def run_command(command: str, argv: list[str] | None = None) -> int:
    """Runs a command, such as `run_command("train", ["--config", "lff_be/cmnist", ...])`.

    Args:
        command (`str`): Its name, as in `hf-biasensemble --help`.
        argv (`list[str]`, *optional*): Its options and their values; by default those of this process.

    Returns:
        `int`: The exit status: 0, or 2 after a user error or when memory runs out, which is reported in one line.
    """
    words = sys.argv[1:] if argv is None else argv
    # Linux: large pages make normalising batches of 224 pixels several times faster. Must be set before torch starts.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # also read by transformers on import
        if transformers := sys.modules.get("transformers"):
            transformers.utils.logging.disable_progress_bar()
    try:
        return importlib.import_module(f"hf_biasensemble.cli.{command.replace('-', '_')}").main(words)
    except BiasEnsembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        said = reason_of(error)
        if not any(words in said for words in _OUT_OF_MEMORY):
            raise
        print(
            f"error: out of memory ({said[:150]}); lower --per_device_train_batch_size and raise "
            "--gradient_accumulation_steps as much, or --members_at_once 1; elsewhere lower --batch_size",
            file=sys.stderr,
        )
        return 2


def run_process(command: str, argv: list[str] | None = None) -> int:
    """[`run_command`] for a process of its own, which leaves its process group afterwards."""
    status = run_command(command, argv)
    if status == 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1:  # set by the launcher
        from hf_biasensemble.internal.collectives import leave

        leave()
    return status


def main() -> int:
    """Entry point of the console script."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in COMMANDS:
        return run_process(command, sys.argv[2:])
    if command == "--version":
        from hf_biasensemble import __version__

        print(f"hf_biasensemble {__version__}")
        return 0
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command:
        near = difflib.get_close_matches(command.replace("_", "-"), COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        print(f"error: unknown command {command}; {hint}", file=sys.stderr)
    else:
        print(usage(), file=sys.stderr)
    return 2


def usage() -> str:
    """What `hf-biasensemble --help` prints."""
    lines = ["usage: hf-biasensemble COMMAND [options]", "       hf-biasensemble COMMAND --help | --version"]
    for title, names in GROUPS.items():
        lines += ["", f"{title}:"]
        for name in names:
            summary = summary_of(Path(__file__).with_name(f"{name.replace('-', '_')}.py")).partition(":")[0]
            lines.append(f"  {name:<18}{summary}")
    return "\n".join(lines)
