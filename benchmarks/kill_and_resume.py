"""Kill real runs at random moments, resume them, and compare what they publish with an undisturbed run.

    python benchmarks/kill_and_resume.py --moments 15 --processes 1 2

Each trial starts a run and kills all its processes with SIGKILL at a random moment of one stage: while members train
or vote, in the main loop, while a checkpoint is written, or while the model is published. It resumes the run until it
ends, in three of ten trials after a second kill. Prints a table; the exit status is 1 if any trial differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SETTINGS = {
    "method": "disent_be",
    "max_steps": 160,
    "per_device_train_batch_size": 16,
    "learning_rate": 0.003,
    "eval_steps": 20,
    "save_steps": 10,
    "save_total_limit": 2,
    "swap_start_step": 40,
    "num_members": 3,
    "member_steps": 150,
    "member_threshold": 0.9,
    "member_agreement": 2,
    "use_cpu": "true",
    "disable_tqdm": "true",
}
PUBLISHED = ("model.safetensors", "config.json", "history.csv", "selection/selection.parquet")


def command(data: Path, output_dir: Path, processes: int, resume: bool) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    settings = {"dataset_name": data, "output_dir": output_dir, **SETTINGS}
    settings["per_device_train_batch_size"] = 16 // processes
    if resume:
        settings["resume_from_checkpoint"] = "true"
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [*launcher, str(ROOT / "train.py"), *words]


class Run:
    """A run in its own session, so all its processes can be killed together."""

    def __init__(self, *arguments: object):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command(*arguments),  # type: ignore[arg-type]
            env=environment,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """Sends SIGKILL to every process of the run; those started by torchrun have their own sessions."""
        try:
            launcher = psutil.Process(self.process.pid)
            launcher.suspend()  # keep it from starting processes meanwhile
            family = [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                pass
        self.process.wait()
        while any(_runs(process) for process in family):
            time.sleep(0.01)

    def text(self) -> str:
        self.output.seek(0)
        return self.output.read()


def _runs(process: psutil.Process) -> bool:
    """Whether a process may still write; a zombie may not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Moment:
    """When to kill: up to `longest` seconds after `seen` is true of the output folder."""

    name: str
    seen: Callable[[Path], bool]
    longest: float

    def wait(self, run: Run, folder: Path, generator: random.Random) -> None:
        while not run.ended() and not self.seen(folder):
            time.sleep(0.001)
        end = time.monotonic() + generator.uniform(0, self.longest)
        while not run.ended() and time.monotonic() < end:
            time.sleep(0.001)


def moments(generator: random.Random) -> list[Moment]:
    """One moment of each stage, at random steps."""
    step = generator.randrange(10, 160, 10)
    member_step = generator.randrange(30, 150, 30)
    return [
        Moment("members", lambda folder: (folder / f"selection/checkpoint-{member_step}").exists(), 0.15),
        Moment("vote", lambda folder: (folder / "selection/checkpoint-150").exists(), 0.15),
        Moment("main loop", lambda folder: (folder / f"checkpoint-{step}").exists(), 0.15),
        Moment("checkpoint", lambda folder: _being_written(folder, step), 0.03),
        Moment("model", lambda folder: (folder / "checkpoint-160").exists(), 0.3),
    ]


def _being_written(folder: Path, step: int) -> bool:
    return (folder / ".unfinished" / f"checkpoint-{step}").exists() or (folder / f"checkpoint-{step}").exists()


def state(folder: Path) -> str:
    """How far the killed run got."""
    if (folder / "model.safetensors").exists():
        return "model there"
    steps = [int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")]
    torn = ", one being written" if any((folder / ".unfinished").glob("*")) else ""
    if steps:
        return f"step {max(steps)}{torn}"
    if (folder / "selection" / "selection.parquet").exists():
        return f"selection{torn}"
    members = [int(path.name.split("-")[1]) for path in folder.glob("selection/checkpoint-*")]
    torn = ", one being written" if any((folder / "selection" / ".unfinished").glob("*")) else ""
    return f"member step {max(members, default=0)}{torn}"


def undisturbed(data: Path, folder: Path, processes: int) -> dict[str, bytes]:
    """The files that an undisturbed run publishes."""
    run = Run(data, folder, processes, False)
    if run.process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed:\n{run.text()[-3000:]}")
    return {name: (folder / name).read_bytes() for name in PUBLISHED}


def trial(data: Path, folder: Path, processes: int, moment: Moment, expected: dict, generator: random.Random) -> dict:
    """Kills a run once or twice and resumes it until it ends."""
    kills: list[str] = []
    times = 2 if generator.random() < 0.3 else 1
    while True:
        resume = (folder / "config.yaml").exists()
        run = Run(data, folder, processes, resume)
        if len(kills) < times:
            moment.wait(run, folder, generator)
            if not run.ended():
                run.kill()
                kills.append(state(folder))
                moment = generator.choice(moments(generator))
                continue
        if run.process.wait() != 0:
            print(run.text()[-6000:], file=sys.stderr)
            return {"kills": kills, "different": ["failed, see above"]}
        break
    different = [name for name, content in expected.items() if (folder / name).read_bytes() != content]
    leftovers = [*folder.rglob(".unfinished"), *folder.glob("selection/checkpoint-*")]
    return {"kills": kills, "different": different + [f"left over: {path.name}" for path in leftovers]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=15, help="trials for each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    arguments = parser.parse_args(argv)
    generator = random.Random(arguments.seed)
    equal = killed = 0
    from synthetic import coloured_digits

    with tempfile.TemporaryDirectory() as name:
        data = coloured_digits(Path(name) / "digits")
        for processes in arguments.processes:
            expected = undisturbed(data, Path(name) / f"undisturbed_{processes}", processes)
            round_of: list[Moment] = []
            for number in range(arguments.moments):
                round_of = round_of or moments(generator)
                moment = round_of.pop(0)
                folder = Path(name) / f"trial_{processes}_{number}"
                found = trial(data, folder, processes, moment, expected, generator)
                verdict = "equal" if not found["different"] else "DIFFERENT: " + ", ".join(found["different"])
                equal += not found["different"]
                killed += len(found["kills"])
                at = "; ".join(found["kills"]) or "not killed, had ended"
                print(f"{processes}  {number + 1:>3}  {moment.name:<11} {at:<60} {verdict}", flush=True)
    trials = arguments.moments * len(arguments.processes)
    print(f"{equal} of {trials} equal, {killed} kills")
    return 0 if equal == trials else 1


if __name__ == "__main__":
    sys.exit(main())
