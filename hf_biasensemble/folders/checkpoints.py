"""Checkpoint folders: published only when complete, checked before resuming, and removed when too old."""

import errno
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of, require
from hf_biasensemble.internal.processes import is_first

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
"""Folder for a checkpoint that is being written. If it remains, the checkpoint was never finished."""


def step_of(checkpoint: Path) -> int:
    """The step in the name `checkpoint-{step}`; -1 if it has none."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def checkpoints_in(folder: Path) -> list[Path]:
    """All checkpoints in the folder, even damaged ones, by step."""
    return sorted((path for path in folder.glob("checkpoint-*") if step_of(path) >= 0), key=step_of)


def problem_of(checkpoint: Path) -> str | None:
    """Why a run cannot resume from this checkpoint; `None` if it can. Opening a file without reading it is fast and
    reveals truncation."""
    from safetensors import SafetensorError, safe_open

    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] != step_of(checkpoint) >= 0:
            return f"trainer_state.json belongs to step {state['global_step']}"
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
    return None if any(checkpoint.glob("rng_state*.pth")) else "the random states are missing"


def newest_readable(folder: Path) -> Path | None:
    """The last checkpoint that a run can resume from; warns about later ones that are damaged."""
    for checkpoint in reversed(checkpoints_in(folder)):
        problem = problem_of(checkpoint)
        if problem is None:
            return checkpoint
        if is_first():
            logger.warning("warning: %s is skipped: %s", checkpoint, problem)
    return None


def check_processes(checkpoint: Path, processes: int) -> None:
    """Refuses a checkpoint of another number of processes, since each process resumes its own random state."""
    saved = len(list(checkpoint.glob("rng_state_*.pth"))) or 1
    expected = f"a checkpoint of {processes} process{'es' if processes > 1 else ''}"
    found = f"one of {saved}; resume with the same number, or start again in another --output_dir"
    require(saved == processes, str(checkpoint), expected, found)


def publish(unfinished: Path, final: Path) -> None:
    """Moves a complete checkpoint into place, replacing one of an earlier attempt."""
    if final.exists():
        shutil.rmtree(final)
    os.replace(unfinished, final)


def remove_older(newest: Path, limit: int | None) -> None:
    """Keeps the newest checkpoint and the `limit` - 1 before it. Checkpoints of later steps, from an earlier attempt,
    don't count."""
    if limit is None or limit < 1:
        return
    earlier = [path for path in checkpoints_in(newest.parent) if step_of(path) < step_of(newest)]
    for path in earlier[: max(0, len(earlier) + 1 - limit)]:
        shutil.rmtree(path)


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints in the folder, including an unfinished one."""
    for path in [*checkpoints_in(folder), folder / UNFINISHED]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def one_line_if_not_written(what: str) -> Iterator[None]:
    """Turns errors due to a full disk, a quota or missing write permission into a `BiasEnsembleError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_write_error(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else reason_of(error, 200)
        raise BiasEnsembleError(
            f"{what} could not be written ({reason}); free disk space, then resume with --resume_from_checkpoint "
            "true. Complete checkpoints are intact"
        ) from error


def _is_write_error(error: Exception) -> bool:
    """Whether writing failed, which safetensors and `torch.save` report in the text of the error only."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
    return any(text in str(error) for text in ("os error", "PytorchStreamWriter failed writing", "unexpected pos"))
