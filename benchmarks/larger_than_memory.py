"""Training on a pixel store larger than the memory limit (Linux, cgroup v1, as root):
`python -m benchmarks.larger_than_memory`.

The library builds a store of random images of 224 pixels, whose pages are dropped from the system's cache. Then a new
process in a control group with a memory limit trains on random batches. Private memory counts against the limit, and
so do pages of the store, but the system reclaims these when needed.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import environment, seconds
from benchmarks.pixels import SIZE, labelled
from benchmarks.trainers import CLASS_NAMES, Setting, trainer
from hf_biasensemble.data.pixels import ImageSplit, decode_split
from hf_biasensemble.internal.sizes import size_in_bytes

GROUPS = Path("/sys/fs/cgroup/memory")
DISTINCT, BATCH, BACKBONE = 256, 16, "test_resnet"


def split_of(folder: Path, count: int) -> ImageSplit:
    """A split of `count` images mapped from the store in the folder, which is built if missing."""
    datasets.config.HF_DATASETS_CACHE = str(folder / "cache")
    files = [folder / f"{number}.bmp" for number in range(DISTINCT)]
    random = np.random.default_rng(0)
    for file in files:
        if not file.exists():
            Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(file)
    stored = decode_split(labelled((files * (count // DISTINCT + 1))[:count]), SIZE, mapped=True)
    labels = torch.arange(count) % len(CLASS_NAMES)
    return ImageSplit(stored.pixels, labels, CLASS_NAMES, torch.arange(count))


def train(folder: Path, count: int, steps: int) -> None:
    """Trains, and prints time, disk reads and private memory."""
    split = split_of(folder, count)
    before = read_bytes()
    with trainer("erm", split, Setting(BACKBONE, SIZE, BATCH), steps) as built:
        taken = seconds(built.train)
        loss = built.state.log_history[-1]["train_loss"]
    lines = Path("/proc/self/status").read_text().splitlines()
    private = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e6
    read = steps * BATCH * split.pixels[torch.tensor([0])].numel() / 1e9
    print(
        f"{steps} steps of {BATCH} images, {read:.2f} GB, in {taken:.0f} s, mean loss {loss:.2f}; read from the disk "
        f"{(read_bytes() - before) / 1e9:.2f} GB; private memory at the end {private:.2f} GB"
    )


def read_bytes() -> int:
    """Bytes that this process read from the disk."""
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


def limited(words: list[str], limit: int) -> dict[str, str]:
    """Runs this module in a control group with the limit and returns the kernel's counters."""
    group = GROUPS / f"hf_biasensemble_{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        join = 'import os, runpy; open({!r}, "w").write(str(os.getpid())); runpy.run_module({!r}, run_name="__main__")'
        program = join.format(str(group / "cgroup.procs"), "benchmarks.larger_than_memory")
        ended = subprocess.run([sys.executable, "-c", program, *words], env=environment())
        counted = {"exit status": str(ended.returncode)}
        counted["GB at most"] = f"{int((group / 'memory.max_usage_in_bytes').read_text()) / 1e9:.2f}"
        counted["times at the limit"] = (group / "memory.failcnt").read_text().strip()
        control = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
        return {**counted, "killed": control.get("oom_kill", "unknown")}
    finally:
        group.rmdir()


def main(argv: list[str] | None = None) -> int:
    """Builds the store and trains; returns 0 if training finished within the limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.larger_than_memory", description=__doc__)
    parser.add_argument("--store", default="4GB", help="size of the store")
    parser.add_argument("--limit", default="2GB", help="memory limit of training")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where to build the store (default: a temporary folder)")
    parser.add_argument("--train", action="store_true", help="train only, without setting a limit")
    given = parser.parse_args(argv)
    count = size_in_bytes(given.store, "--store") // (3 * SIZE**2)
    if given.train:
        train(given.folder, count, given.steps)
        return 0
    if not os.access(GROUPS / "cgroup.procs", os.W_OK):
        parser.error(f"expected writable control groups of version 1, found none at {GROUPS}")
    with TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        split = split_of(folder, count)
        with open(split.pixels.file, "rb") as stream:  # type: ignore[union-attr]
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else its pages count outside the group
        print(f"store of {split.pixels.shape.numel() / 1e9:.2f} GB, limit {given.limit}", flush=True)
        words = ["--train", "--folder", str(folder), "--store", given.store, "--steps", str(given.steps)]
        counted = limited(words, size_in_bytes(given.limit, "--limit"))
    print(", ".join(f"{name} {value}" for name, value in counted.items()))
    return 0 if counted["exit status"] == "0" else 1


if __name__ == "__main__":
    sys.exit(main())
