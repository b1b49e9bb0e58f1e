"""Checkpoint folders: complete or not to be seen, which one to go on from, and which ones to keep."""

import errno
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import is_first

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
"""Folder beside the checkpoints in which one is written; one that is still there was never finished."""


def step_of(checkpoint: Path) -> int:
    """The step in the name `checkpoint-{step}`; -1 if it has none."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def checkpoints_in(folder: Path) -> list[Path]:
    """All checkpoints in the folder, whatever their state, by step."""
    return sorted((path for path in folder.glob("checkpoint-*") if step_of(path) >= 0), key=step_of)


def problem_of(checkpoint: Path) -> str | None:
    """Why a run cannot go on from this checkpoint; `None` if it can.

    Files are opened, not read: that shows those that are cut short, in the time that a directory listing takes.
    """
    from safetensors import SafetensorError, safe_open

    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] != step_of(checkpoint) >= 0:
            return f"trainer_state.json is of step {state['global_step']}"
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "trainer_state.json is damaged"
    for name in ("optimizer.pt", "scheduler.pt", "model.safetensors"):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    for file in sorted([*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]):
        if not zipfile.is_zipfile(file):
            return f"{file.name} is damaged"
    for file in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError):
            return f"{file.name} is damaged"
    saved = len(list(checkpoint.glob("rng_state_*.pth")))
    if saved == 0 and not (checkpoint / "rng_state.pth").is_file():
        return "the random states are missing"
    return None


def newest_readable(folder: Path) -> Path | None:
    """The last checkpoint that a run can go on from; later ones that are damaged are named in a warning."""
    for checkpoint in reversed(checkpoints_in(folder)):
        problem = problem_of(checkpoint)
        if problem is None:
            return checkpoint
        if is_first():
            logger.warning("warning: %s is left out: %s", checkpoint, problem)
    return None


def check_processes(checkpoint: Path, processes: int) -> None:
    """Refuses a checkpoint of another number of processes: each goes on with random numbers of its own."""
    saved = len(list(checkpoint.glob("rng_state_*.pth"))) or 1
    if saved != processes:
        raise BiasEnsembleError(
            f"{checkpoint}: expected a checkpoint of {processes} process{'es' if processes > 1 else ''}, found one of "
            f"{saved}; resume with as many as before, or start again in another --output_dir"
        )


def publish(unfinished: Path, final: Path) -> None:
    """Puts a checkpoint that is complete in its place, which one from an earlier attempt may hold."""
    if final.exists():
        shutil.rmtree(final)
    os.replace(unfinished, final)


def remove_older(newest: Path, limit: int | None) -> None:
    """Keeps the newest checkpoint, which has just been written, and the `limit` - 1 before it.

    Those of later steps do not count: they are what an earlier attempt left, maybe damaged.
    """
    if limit is None or limit < 1:
        return
    earlier = [path for path in checkpoints_in(newest.parent) if step_of(path) < step_of(newest)]
    for path in earlier[: max(0, len(earlier) + 1 - limit)]:
        shutil.rmtree(path)


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints in the folder, and what was left of an unfinished one."""
    for path in [*checkpoints_in(folder), folder / UNFINISHED]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def one_line_if_not_written(what: str) -> Iterator[None]:
    """Turns what a full disk, a quota or missing rights make of writing into a `BiasEnsembleError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _of_writing(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise BiasEnsembleError(
            f"{what} could not be written ({reason}); free disk space, then go on with --resume_from_checkpoint true. "
            "Complete checkpoints are unharmed"
        ) from error


def _of_writing(error: Exception) -> bool:
    """safetensors passes the system's error on as text; `torch.save` says that a write failed, or what its clean-up
    finds then."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
    return any(text in str(error) for text in ("os error", "PytorchStreamWriter failed writing", "unexpected pos"))
