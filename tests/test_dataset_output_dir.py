"""The folder that a script writes a dataset into: kept, replaced, left clean by a run that fails or is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from fresh_python import environment
from image_trees import all_bytes, bffhq_tree, check_error, run
from mnist_files import SCRIPT, build, cmnist


def test_output_dir_with_files_is_refused_and_kept(mnist_folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert build(mnist_folder, tmp_path) == 2
    check_error(capsys, "cmnist", "output_dir", str(tmp_path), "--overwrite_output_dir")
    assert all_bytes(tmp_path) == {"notes.txt": b"mine"}
    assert build(mnist_folder, tmp_path / "notes.txt", "--overwrite_output_dir") == 2
    check_error(capsys, "cmnist", "folder", "notes.txt")
    assert all_bytes(tmp_path) == {"notes.txt": b"mine"}


def test_overwrite_replaces_the_folder(mnist_folder, tmp_path):
    out = tmp_path / "out"
    (out / "1pct").mkdir(parents=True)
    (out / "1pct" / "train-00000-of-00001.parquet").write_bytes(b"old")
    assert build(mnist_folder, out, "--dataset_config_names", "2pct", "--overwrite_output_dir") == 0
    assert sorted(path.name for path in out.iterdir()) == ["2pct", "README.md", "contact_sheet.png", "shared"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_never_replaces_the_working_folder(mnist_folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "project" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep")
    assert build(mnist_folder, tmp_path / "project", "--overwrite_output_dir") == 2
    check_error(capsys, "cmnist", "project")
    assert (tmp_path / "project" / "deep").is_dir()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_run_leaves_nothing(mnist_folder, tmp_path, monkeypatch, exception, existing):
    out = tmp_path / "out"
    if existing:
        out.mkdir()
        (out / "README.md").write_text("old")

    def fail(self, **_):
        assert len(list(tmp_path.rglob("*.parquet"))) == 3  # the failure comes late
        raise exception

    monkeypatch.setattr(cmnist.DatasetRepository, "write_card", fail)
    options = ("--dataset_config_names", "1pct", "--overwrite_output_dir")
    if exception is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            build(mnist_folder, out, *options)
    else:
        assert build(mnist_folder, out, *options) == 2
    assert all_bytes(tmp_path) == ({"out/README.md": b"old"} if existing else {})
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if existing else [])


def test_a_killed_run_leaves_no_output_dir_and_the_next_run_cleans_up(mnist_folder, tmp_path):
    out = tmp_path / "here" / "out"
    severities = [f"{number}pct" for number in range(1, 60)]  # enough work to be killed in the middle of it
    options = ["--source", "parquet", "--source_dir", str(mnist_folder), "--output_dir", str(out)]
    command = [sys.executable, str(SCRIPT), *options, "--dataset_config_names", *severities]
    process = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(out.parent.glob(".out.partial/2pct/train*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert (out.parent / ".out.partial").exists()
    assert cmnist.main([*options, "--dataset_config_names", "1pct"]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert sorted(path.name for path in out.iterdir()) == ["1pct", "README.md", "contact_sheet.png", "shared"]


def test_two_runs_do_not_write_the_same_folder(mnist_folder, tmp_path, capsys):
    with FileLock(tmp_path / ".out.lock"):
        (tmp_path / ".out.partial").mkdir()
        (tmp_path / ".out.partial" / "theirs").touch()
        assert build(mnist_folder, tmp_path / "out") == 2
        check_error(capsys, "cmnist", "another process", "wait")
        assert (tmp_path / ".out.partial" / "theirs").exists()


def test_folder_that_cannot_be_written_to_is_named(mnist_folder, tmp_path, capsys):
    parent = tmp_path / "file"
    parent.touch()
    assert build(mnist_folder, parent / "out") == 2
    check_error(capsys, "cmnist", "file")
    if Path("/proc/self").exists():  # a file system that refuses all files, even those of root
        assert build(mnist_folder, "/proc/out") == 2
        check_error(capsys, "cmnist", "/proc", "elsewhere")


def test_output_dir_is_kept_and_the_source_too(tmp_path, capsys):
    bffhq = bffhq_tree(tmp_path / "bffhq").root
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert run("bffhq", bffhq, tmp_path / "out") == 2
    check_error(capsys, "bffhq", "output_dir", "--overwrite_output_dir")
    before = all_bytes(tmp_path)
    for out in (bffhq, tmp_path):
        assert run("bffhq", bffhq, out, "--overwrite_output_dir") == 2
        check_error(capsys, "bffhq", "source outside output_dir")
    assert all_bytes(tmp_path) == before
    assert run("bffhq", bffhq, tmp_path / "out", "--overwrite_output_dir") == 0
    assert not (tmp_path / "out" / "notes.txt").exists()
