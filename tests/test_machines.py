"""Two machines, stood in for by two launchers that meet on the loopback address, each with its own cache and working
folder; only the output folder is shared."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from runs import ROOT, distance, results, train, words

pytestmark = pytest.mark.slow

SLOWLY = {"save_steps": 1, "eval_steps": 1}  # so that a signal comes in time
SETTINGS = {"method": "lff_be", "adam_epsilon": 1e-4, "member_threshold": 0.3, "max_steps": 40}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def two_machines(folder: Path, given: list[str], script: Path = ROOT / "train.py") -> list[subprocess.Popen]:
    """Starts the script on both, one process each."""
    port, started = free_port(), []
    for machine in (0, 1):
        own = folder / f"machine{machine}"
        own.mkdir(parents=True, exist_ok=True)
        launcher = ["--nnodes", "2", "--node_rank", str(machine), "--nproc_per_node", "1"]
        launcher += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(own / "cache")}
        with open(own / "log", "a") as log:
            command = [sys.executable, "-m", "torch.distributed.run", *launcher, str(script), *given]
            started.append(subprocess.Popen(command, env=os.environ | variables, cwd=own, stdout=log, stderr=log))
    return started


def ended(machines: list[subprocess.Popen]) -> list[int]:
    return [machine.wait(timeout=300) for machine in machines]


def check_same(one: Path, two: Path) -> None:
    assert distance(one / "model.safetensors", two / "model.safetensors") < 1e-5
    ours, theirs = (pq.read_table(folder / "selection" / "selection.parquet").to_pydict() for folder in (one, two))
    for name in ("index", "votes", "is_selected"):
        assert ours[name] == theirs[name]
    assert ours["mean_probability"] == pytest.approx(theirs["mean_probability"], abs=1e-5)
    ours, theirs = results(one), results(two)
    judged = [name for name in ours if name.startswith(("validation_", "test_"))]
    assert judged and ours.keys() - {"selection_runtime"} == theirs.keys() - {"selection_runtime"}  # one was resumed
    for name in judged:
        assert ours[name] == (pytest.approx(theirs[name], abs=1e-5) if isinstance(ours[name], float) else theirs[name])


@pytest.fixture(scope="module")
def one_machine(digits, tmp_path_factory):
    """Folder of the same run by one process."""
    folder = tmp_path_factory.mktemp("one") / "out"
    assert train(digits, folder, **SETTINGS) == 0
    return folder


def test_two_machines_train_what_one_process_trains(digits, one_machine, tmp_path):
    given = words(digits, tmp_path / "out", **SETTINGS | {"per_device_train_batch_size": 8})
    machines = two_machines(tmp_path, given)
    assert ended(machines) == [0, 0], (tmp_path / "machine0" / "log").read_text()[-3000:]
    check_same(one_machine, tmp_path / "out")
    stores = [sorted(path.name for path in tmp_path.glob(f"machine{n}/cache/**/*.npy")) for n in (0, 1)]
    assert stores[0] == stores[1] and len(stores[0]) == 3  # each made its own, of the same names


def test_one_machine_dies_and_the_job_is_started_again(digits, one_machine, tmp_path):
    given = words(digits, tmp_path / "out", **SETTINGS | {"per_device_train_batch_size": 8} | SLOWLY)
    machines = two_machines(tmp_path, given)
    while not list((tmp_path / "out").glob("checkpoint-*")):
        assert all(machine.poll() is None for machine in machines), (tmp_path / "machine0" / "log").read_text()[-3000:]
        time.sleep(0.05)
    for process in psutil.Process(machines[1].pid).children(recursive=True):
        process.kill()
    machines[1].kill()
    assert ended(machines)[0] != 0
    machines = two_machines(tmp_path, [*given, "--resume_from_checkpoint", "true"])
    assert ended(machines) == [0, 0], (tmp_path / "machine0" / "log").read_text()[-3000:]
    check_same(one_machine, tmp_path / "out")


def test_machines_that_do_not_share_the_output_folder_are_told(digits, tmp_path):
    given = words(digits, Path("out"), **SETTINGS | {"per_device_train_batch_size": 8})
    machines = two_machines(tmp_path, given)
    assert all(ended(machines))
    said = "".join((tmp_path / f"machine{n}" / "log").read_text() for n in (0, 1))
    assert "--output_dir out: expected a folder that all processes see" in said, said[-3000:]


def test_the_slurm_script_of_the_docs_saves_on_term_is_queued_again_and_resumes(digits, one_machine, tmp_path):
    """Slurm's part is played by a `srun` that starts two tasks here and a `scontrol` that notes what it is told."""
    (script,) = re.findall(r"```bash\n(#!.*?)```", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, content in {
        "slurm.sh": script,
        "srun": 'trap \'kill -TERM $one $two\' TERM\n"$@" & one=$!\n"$@" & two=$!\n'
        "wait $one $two || { wait $one $two; exit 1; }",
        "scontrol": f"if [[ $1 == show ]]; then echo 127.0.0.1; else echo $* >> {tmp_path}/queue; fi",
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }.items():
        (commands / name).write_text(content if content.startswith("#!") else f"#!/usr/bin/env bash\n{content}\n")
        (commands / name).chmod(0o755)
    variables = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    variables |= {"SLURM_JOB_NODELIST": "nodes", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    out = tmp_path / "out"
    given = words(digits, out, **SETTINGS | {"per_device_train_batch_size": 8} | SLOWLY)

    def submitted() -> subprocess.Popen:
        with open(tmp_path / "log", "a") as log:
            environment = os.environ | variables | {"RUN": str(out)}
            return subprocess.Popen([commands / "slurm.sh", *given], env=environment, cwd=ROOT, stdout=log, stderr=log)

    job = submitted()
    while not list(out.glob("checkpoint-*")):
        assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=300)
    assert (tmp_path / "queue").read_text() == "requeue 7\n"
    assert not (out / "all_results.json").exists()
    assert "stopped by SIGTERM after step" in (tmp_path / "log").read_text()
    assert submitted().wait(timeout=300) == 0, (tmp_path / "log").read_text()[-3000:]
    assert (tmp_path / "queue").read_text() == "requeue 7\n"
    check_same(one_machine, out)
