"""The output folder of a run: its files, its lock, and the checks before overwriting or resuming."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from hf_biasensemble.folders.checkpoints import check_processes, newest_readable, problem_of
from hf_biasensemble.internal.errors import BiasEnsembleError, differences, require
from hf_biasensemble.internal.files import remove_unfinished

if TYPE_CHECKING:
    from hf_biasensemble.arguments import DebiasingArguments

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "all_results.json"
HISTORY_FILE = "history.csv"
LOCK_FILE = ".lock"
CARD_FILE = "README.md"
FIGURES_DIR = "figures"
ACCURACY_FIGURE, GROUPS_FIGURE, DIFFICULTY_FIGURE, SELECTION_FIGURE = (
    f"{FIGURES_DIR}/{name}.png" for name in ("accuracy", "groups", "relative_difficulty", "selection")
)
EXPLAINED_FILES = tuple(f"{FIGURES_DIR}/{name}" for name in ("reliance.csv", "reliance.png", "counterfactuals.png"))
"""The files that `explain` writes."""
FIGURE_FILES = (ACCURACY_FIGURE, GROUPS_FIGURE, DIFFICULTY_FIGURE, SELECTION_FIGURE, *EXPLAINED_FILES)
AUDIT_FILES = ("audit.html", "audit.csv", "audit.parquet")
DROPPED_FILE = "dropped_images.csv"
REPOSITORY_PLACEHOLDER = "path/or/hub-id/of/this/repository"
"""The location of the model in a card's examples, until it is pushed."""
_RUN_FILES = (
    *(RESULTS_FILE, HISTORY_FILE, CARD_FILE),
    *("trainer_state.json", "config.json", "model.safetensors", "selection", "judging"),
)
# A folder with only these can be overwritten.
_FURTHER_FILES = (
    *(CONFIG_FILE, DROPPED_FILE, "preprocessor_config.json", "modeling_debiased.py"),
    *FIGURE_FILES,
    *AUDIT_FILES,
)


def without_local_paths(value: Any) -> Any:
    """Replaces absolute paths in settings or results, which mean nothing elsewhere, by `path/to/NAME`."""
    if isinstance(value, dict):
        return {name: without_local_paths(content) for name, content in value.items()}
    if isinstance(value, list):
        return [without_local_paths(content) for content in value]
    path = re.fullmatch(r"(local-dir:)?(?:[~/\\]|[A-Za-z]:[/\\]).*?([^/\\]*)[/\\]*", str(value))
    if isinstance(value, str) and path:
        return f"{path[1] or ''}path/to/{path[2]}"
    return value


@contextmanager
def sole_writer(folder: str | Path, option: str = "--output_dir", wait: bool = False) -> Iterator[None]:
    """Locks the folder, which is created if missing, against other writers until the block or process ends. If another
    process holds the lock, raises or, with `wait`, waits; errors name the `option`."""
    folder = Path(folder)
    check_no_file(folder, option)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK_FILE).acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BiasEnsembleError(
            f"{option} {folder}: another process is writing there; wait for it, stop it or name another folder"
        ) from error
    with lock:
        remove_unfinished(folder)
        yield


def check_no_file(folder: Path, option: str = "--output_dir") -> None:
    """Refuses a file where a folder is expected."""
    require(folder.is_dir() or not folder.exists(), f"{option} {folder}", "a folder", "a file; name another")


def results_in(folder: Path) -> list[Path]:
    """The files and folders of a run that are worth keeping: model, checkpoints, selection, results, card."""
    named = [folder / name for name in _RUN_FILES] + sorted(folder.glob("checkpoint-*"))
    return [path for path in named if path.is_file() or (path.is_dir() and any(path.iterdir()))]


def written_in(folder: Path) -> list[Path]:
    """All files and folders of a run, those worth keeping first."""
    return results_in(folder) + [folder / name for name in _FURTHER_FILES if (folder / name).exists()]


def check_output_dir(output_dir: Path, args: "DebiasingArguments", checkpoint: Path | None) -> list[Path]:
    """Refuses a folder with another run unless it may be overwritten; returns the files to remove."""
    resumes_here = args.resume_from_checkpoint and (checkpoint is None or checkpoint.parent == output_dir.resolve())
    if not output_dir.exists() or resumes_here:
        return []
    found = results_in(output_dir)
    if found and not args.overwrite_output_dir:
        raise BiasEnsembleError(
            f"--output_dir {output_dir} holds another run ({found[0].name}); continue it with "
            "--resume_from_checkpoint true, replace it with --overwrite_output_dir, or name another folder"
        )
    return written_in(output_dir)


def remove_earlier_run(output_dir: Path, args: "DebiasingArguments", checkpoint: Path | None = None) -> None:
    """Removes the files that [`check_output_dir`] returns."""
    for path in check_output_dir(output_dir, args, checkpoint):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def checkpoint_to_resume(args: "DebiasingArguments") -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` names: a folder, or `true` for the newest complete one in
    `output_dir`. `None` starts from the beginning: not asked for, or there is none yet."""
    asked = str(args.resume_from_checkpoint or "false")
    if asked.lower() == "false":
        args.resume_from_checkpoint = None
        return None
    if asked.lower() == "true":
        output_dir = Path(args.output_dir).resolve()
        found = f"no {CONFIG_FILE} there; check --output_dir or leave the option out"
        is_run = (output_dir / CONFIG_FILE).exists()
        require(is_run, "--resume_from_checkpoint true", f"a run in {args.output_dir}", found)
        checkpoint = newest_readable(output_dir)
    else:
        checkpoint = Path(asked).expanduser().resolve()
        problem = problem_of(checkpoint) if checkpoint.is_dir() else "no such folder"
        expected, found = "true or the folder of a complete checkpoint", f"none ({problem})"
        require(problem is None, f"--resume_from_checkpoint {asked}", expected, found)
    if checkpoint:
        check_processes(checkpoint, args.world_size)
    return checkpoint


def settings_in(folder: str | Path) -> dict[str, Any]:
    """The settings in the `config.yaml` of a run."""
    return yaml.safe_load((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))


def check_same_run(output_dir: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Refuses to resume with other data, method, model or seed; returns the settings of the run."""
    file = output_dir / CONFIG_FILE
    if not file.exists():
        return {}
    before = settings_in(output_dir)
    different = differences(before, yaml.safe_load(yaml.safe_dump(settings)), ignored=MAY_DIFFER_ON_RESUME)
    if different:
        raise BiasEnsembleError(
            f"cannot resume the run in {output_dir}: {'; '.join(different)}; use the settings in {file}, or another "
            "--output_dir"
        )
    return before


# `train_fingerprint` identifies the data, and a digest the members of --judge.
MAY_DIFFER_ON_RESUME = frozenset(
    """dataset_name reading pretrained_weights judge audit output_dir selection_dir compare_with overwrite_output_dir
    pixel_memory_limit verify_pixels pixels_on per_device_eval_batch_size max_steps num_train_epochs schedule_steps
    eval_strategy eval_steps eval_delay eval_on_start save_strategy save_steps save_total_limit logging_steps report_to
    use_cpu""".split()
)
