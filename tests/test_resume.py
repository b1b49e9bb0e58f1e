"""Runs that were ended at some moment go on as if nothing had happened."""

import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from runs import METHODS, history, killed_after, results, step_of, train, weights

from hf_biasensemble.folders.checkpoints import checkpoints_in, newest_readable, problem_of, remove_older
from hf_biasensemble.methods.disent import DisentTrainer
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

# 96 images in batches of 16: six steps an epoch, so 50 steps end inside one.
CHANGES = {"max_steps": 50, "member_steps": 100, "save_steps": 20, "keep_member": "best", "member_eval_steps": 9}
METHOD = "disent_be"


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    assert train(digits, folder, METHOD, **CHANGES) == 0
    return folder


@pytest.fixture
def copy(undisturbed, tmp_path):
    """A copy of the run, to be changed at will."""
    return shutil.copytree(undisturbed, tmp_path / "copy")


def resume(data: Path, folder: Path, **changes: object) -> int:
    return train(data, folder, METHOD, **{**CHANGES, "resume_from_checkpoint": "true", **changes})


def assert_same(folder: Path, undisturbed: Path) -> None:
    """Bit by bit: what is published, and the state at the last step."""
    files = ["model.safetensors", "history.csv", "config.json", "selection/selection.parquet"]
    files += [f"checkpoint-50/{name}.safetensors" for name in ("model", "sample_losses")]
    for name in files:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


class Steps:
    """Counts the steps a trainer really makes, and sends this process a signal at one of them."""

    def __init__(self, monkeypatch, trainer, signal_at: int = -1, number: int = signal.SIGTERM):
        self.made = 0
        original = trainer.training_terms

        def training_terms(trainer, model, batch):
            self.made += 1
            if self.made == signal_at:
                os.kill(os.getpid(), number)
            return original(trainer, model, batch)

        monkeypatch.setattr(trainer, "training_terms", training_terms)


# Every method --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["true", "path"])
def test_resumed_run_ends_bitwise_like_the_uninterrupted_one(finished, copy_of, digits, method, how):
    folder = copy_of(method)
    killed_after(folder, 5)
    (folder / "history.csv").unlink()  # it comes back from the checkpoint
    checkpoint = folder / "checkpoint-5"
    written = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert train(digits, folder, method, resume_from_checkpoint=how if how == "true" else checkpoint) == 0
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == written  # the first five steps were not made again
    whole = finished(method)
    assert weights(folder) == weights(whole)
    for file in ("model.safetensors", "sample_losses.safetensors"):
        last = Path("checkpoint-12") / file
        assert (folder / last).exists() == (whole / last).exists()
        if (whole / last).exists():
            assert (folder / last).read_bytes() == (whole / last).read_bytes()
    ours, theirs = (torch.load(f / "checkpoint-12/optimizer.pt", weights_only=True) for f in (folder, whole))
    for number, state in theirs["state"].items():
        assert all(torch.equal(value, ours["state"][number][name]) for name, value in state.items())
    assert history(folder) == history(whole)
    resumed, uninterrupted = results(folder), results(whole)
    assert all(resumed[name] == value for name, value in uninterrupted.items() if name.startswith(("test_", "valid")))


def test_newest_complete_checkpoint_is_resumed(finished, copy_of, digits):
    folder = copy_of("lff")
    killed_after(folder, 5)
    for number, text in ((10, None), (11, '{"global_st')):  # killed before and while the last file was written
        (folder / f"checkpoint-{number}").mkdir()
        (folder / f"checkpoint-{number}" / "model.safetensors").write_bytes(b"half")
        if text:
            (folder / f"checkpoint-{number}" / "trainer_state.json").write_text(text)
    written = (folder / "checkpoint-5" / "model.safetensors").stat().st_mtime_ns
    assert train(digits, folder, "lff", resume_from_checkpoint="true") == 0
    assert (folder / "checkpoint-5" / "model.safetensors").stat().st_mtime_ns == written
    assert weights(folder) == weights(finished("lff"))


def test_run_that_ended_before_its_first_checkpoint_starts_again_with_its_selection(finished, copy_of, digits):
    folder = copy_of("lff_be")
    killed_after(folder, 0)
    before = (folder / "selection" / "selection.parquet").stat().st_mtime_ns
    assert train(digits, folder, "lff_be", resume_from_checkpoint="true") == 0
    assert (folder / "selection" / "selection.parquet").stat().st_mtime_ns == before
    assert weights(folder) == weights(finished("lff_be"))
    assert "selection_runtime" not in results(folder)


def test_finished_run_can_be_trained_further(finished, copy_of, digits):
    folder = copy_of("lff")
    before = {file: file.stat().st_mtime_ns for file in folder.glob("checkpoint-*/model.safetensors")}
    assert train(digits, folder, "lff", resume_from_checkpoint="true", max_steps=14) == 0
    assert (folder / "checkpoint-14").exists()
    assert before == {file: file.stat().st_mtime_ns for file in before}  # step 12 was not made again
    assert weights(folder) != weights(finished("lff"))


# Signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_says_so_and_the_run_goes_on(undisturbed, digits, tmp_path, monkeypatch, capsys, number, status):
    with monkeypatch.context() as patched:
        Steps(patched, DisentTrainer, signal_at=33, number=number)
        with pytest.raises(SystemExit) as ended:
            train(digits, tmp_path / "out", METHOD, **CHANGES)
    assert ended.value.code == status
    said = capsys.readouterr().out
    assert f"stopped by {signal.Signals(number).name} after step 33: checkpoint saved in" in said
    assert newest_readable(tmp_path / "out").name == "checkpoint-33"
    assert not (tmp_path / "out" / "model.safetensors").exists()
    steps = Steps(monkeypatch, DisentTrainer)
    assert resume(digits, tmp_path / "out") == 0
    assert steps.made == 50 - 33
    assert_same(tmp_path / "out", undisturbed)


def test_members_go_on_where_they_were_stopped(undisturbed, digits, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        Steps(patched, BiasEnsembleTrainer, signal_at=47)
        with pytest.raises(SystemExit, match="143"):
            train(digits, tmp_path / "out", METHOD, **CHANGES)
    assert not (tmp_path / "out" / "selection" / "selection.parquet").exists()
    with monkeypatch.context() as patched:
        steps = Steps(patched, BiasEnsembleTrainer)
        assert resume(digits, tmp_path / "out") == 0
        assert steps.made == 100 - 47
    assert_same(tmp_path / "out", undisturbed)
    assert sorted(os.listdir(tmp_path / "out" / "selection")) == ["members.safetensors", "selection.parquet"]


def test_finished_members_are_not_trained_again(copy, undisturbed, digits, monkeypatch):
    killed_after(copy, 0)
    steps = Steps(monkeypatch, BiasEnsembleTrainer)
    assert resume(digits, copy) == 0
    assert steps.made == 0
    assert_same(copy, undisturbed)


def test_signals_mean_what_they_did_before_once_training_is_over(digits, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert train(digits, tmp_path / "out", "erm", max_steps=2) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_training_outside_the_main_thread_leaves_signals_alone(digits, tmp_path):
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(train(digits, tmp_path / "out", "erm", max_steps=2)))
    thread.start()
    thread.join()
    assert status == [0]


# Checkpoints ---------------------------------------------------------------------------------------------------------


def test_run_killed_after_its_last_checkpoint_makes_no_further_step(copy, undisturbed, digits, monkeypatch):
    killed_after(copy, 50)
    (copy / ".unfinished" / "checkpoint-50").mkdir(parents=True)
    steps = Steps(monkeypatch, DisentTrainer)
    assert resume(digits, copy) == 0
    assert steps.made == 0
    assert not (copy / ".unfinished").exists()
    assert_same(copy, undisturbed)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda folder: cut(folder / "optimizer.pt"), "optimizer.pt is damaged"),
        (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is damaged"),
        (lambda folder: cut(folder / "sample_losses.safetensors"), "sample_losses.safetensors is damaged"),
        (lambda folder: cut(folder / "rng_state.pth"), "rng_state.pth is damaged"),
        (lambda folder: cut(folder / "trainer_state.json"), "trainer_state.json is damaged"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda folder: (folder / "rng_state.pth").unlink(), "the random states are missing"),
        (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    ],
)
def test_damaged_checkpoint_is_left_out_and_named(copy, caplog, damage, named):
    assert newest_readable(copy).name == "checkpoint-50"
    damage(copy / "checkpoint-50")
    assert newest_readable(copy).name == "checkpoint-40"
    assert f"{copy / 'checkpoint-50'} is skipped: {named}" in caplog.text


def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(copy, undisturbed, digits, monkeypatch, caplog):
    killed_after(copy, 40)
    cut(copy / "checkpoint-40" / "optimizer.pt")
    steps = Steps(monkeypatch, DisentTrainer)
    assert resume(digits, copy) == 0
    assert steps.made == 30
    assert "checkpoint-40 is skipped: optimizer.pt is damaged" in caplog.text
    assert problem_of(copy / "checkpoint-40") is None  # written again
    assert_same(copy, undisturbed)


def test_damaged_checkpoint_asked_for_by_name_is_refused(copy, digits, capsys):
    cut(copy / "checkpoint-40" / "optimizer.pt")
    assert resume(digits, copy, resume_from_checkpoint=copy / "checkpoint-40") == 2
    assert "optimizer.pt is damaged" in capsys.readouterr().err


def test_last_good_checkpoint_is_never_removed(copy, undisturbed, digits):
    killed_after(copy, 20)
    torn = shutil.copytree(copy / "checkpoint-20", copy / "checkpoint-90")  # newer in step and in time
    cut(torn / "trainer_state.json")
    assert resume(digits, copy, save_total_limit=1) == 0
    assert [path.name for path in checkpoints_in(copy)] == ["checkpoint-50", "checkpoint-90"]
    assert newest_readable(copy).name == "checkpoint-50"
    assert_same(copy, undisturbed)


@pytest.mark.parametrize("limit, kept", [(None, [1, 2, 3, 4, 9]), (1, [4, 9]), (2, [3, 4, 9]), (9, [1, 2, 3, 4, 9])])
def test_as_many_checkpoints_are_kept_as_asked(tmp_path, limit, kept):
    for step in (1, 2, 3, 4, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    remove_older(tmp_path / "checkpoint-4", limit)
    assert [step_of(path) for path in checkpoints_in(tmp_path)] == kept


@pytest.mark.parametrize(
    "fits, named",
    [
        (None, "results"),  # nothing at all
        ("trainer_state.json", "checkpoint-40"),  # not model.safetensors
        ("model.safetensors", "checkpoint-40"),  # not optimizer.pt
    ],
)
def test_full_disk_is_one_line_and_costs_no_checkpoint(copy, undisturbed, digits, capsys, fits, named):
    killed_after(copy, 20)
    limit = (copy / "checkpoint-20" / fits).stat().st_size + 20_000 if fits else 100
    before = {path: path.read_bytes() for path in (copy / "checkpoint-20").iterdir()}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        assert resume(digits, copy, save_total_limit=1) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and named in lines[0] and "could not be written" in lines[0]
    assert {path: path.read_bytes() for path in (copy / "checkpoint-20").iterdir()} == before
    assert [path.name for path in checkpoints_in(copy)] == ["checkpoint-20"]
    assert not (copy / ".unfinished").exists()
    assert resume(digits, copy) == 0
    assert_same(copy, undisturbed)


def test_checkpoint_is_not_to_be_seen_before_it_is_complete(digits, tmp_path):
    """Whenever one looks, every checkpoint in the folder can be resumed."""
    problems: list[str] = []
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for checkpoint in checkpoints_in(tmp_path / "out"):
                problem = problem_of(checkpoint)
                if checkpoint.exists():  # else it was removed meanwhile
                    seen.add(checkpoint.name)
                    problems.extend([problem] if problem else [])
            time.sleep(0.001)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert train(digits, tmp_path / "out", "lff", max_steps=20, save_steps=1, save_total_limit=30) == 0
    finally:
        over.set()
        looking.join()
    assert not problems and len(seen) >= 10


def test_ended_run_is_the_same_whatever_was_left_unfinished(copy, undisturbed, digits):
    killed_after(copy, 40)
    shutil.copytree(copy / "checkpoint-40", copy / ".unfinished" / "checkpoint-50")
    (copy / "model.safetensors").write_bytes(weights(undisturbed)[:1000])
    assert resume(digits, copy) == 0
    assert_same(copy, undisturbed)
    assert not (copy / ".unfinished").exists()
