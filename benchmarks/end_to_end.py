"""A whole run of LfF + BiasEnsemble on Coloured MNIST: 5 x 1,000 member steps, 10,000 steps, 20 evaluations.

`train.py` is timed from the start of its process to the end. The loop over PNG files would take too long, so a few
steps of each part are timed and extrapolated.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.utils.data import DataLoader

from benchmarks import bare
from benchmarks.measuring import ROOT, Figure, Options, environment, seconds
from benchmarks.trainers import amplified_set, load_splits, write_files

MEMBERS, MEMBER_STEPS, STEPS, EVERY, BATCH = 5, 1_000, 10_000, 500, 256


def figures(options: Options) -> Iterator[Figure]:
    """One figure in seconds, with its parts."""
    with options.coloured_mnist() as words, TemporaryDirectory() as name:
        folder = Path(name)
        splits = load_splits(words)
        measured = sum(len(split) for key, split in splits.items() if key != "train")
        files = write_files(splits["train"], folder / "images", options.few(15_000, 600))
        data = bare.Files(files, splits["train"].labels[: len(files)])
        contenders = {
            "loop over PNG files, from its parts": lambda: from_parts(data, len(splits["train"]), measured, options),
            "train.py": lambda: command(words, folder / "output", options),
        }
        yield Figure("lff_be", "s", contenders, "loop over PNG files, from its parts", repeats=2, warm_ups=0)


def command(data: list[str], output_dir: Path, options: Options) -> dict[str, float]:
    """Seconds of the command and its parts."""
    settings = {
        "config": ROOT / "configs" / "lff_be" / "cmnist.yaml",
        "output_dir": output_dir,
        "overwrite_output_dir": "true",
        "max_steps": options.few(STEPS, 20),
        "member_steps": options.few(MEMBER_STEPS, 20),
        "eval_steps": options.few(EVERY, 10),
        "keep_member": "last",
        "member_threshold": 0 if options.quick else 0.99,
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, ROOT / "train.py", *data, *words], check=True, env=environment(), stdout=subprocess.DEVNULL
    )
    whole = time.perf_counter() - started
    results = json.loads((output_dir / "all_results.json").read_text())
    parts = {
        "member steps": results["selection_runtime"],
        "steps and evaluations": results["train_runtime"],
    }
    return {"whole": whole, **parts, "start, data, votes, model": whole - sum(parts.values())}


def from_parts(data: bare.Files, samples: int, measured: int, options: Options) -> dict[str, float]:
    """Seconds of the same work, extrapolated from a few steps of each kind and one pass over 15,000 files."""
    labels = data.labels
    amplified = amplified_set(len(labels))
    networks = [bare.classifier("mlp") for _ in range(MEMBERS)]

    def batches(steps: int) -> Iterator[bare.Batch]:
        loader: DataLoader = bare.from_files(data, BATCH)
        endless = bare.epochs(loader)
        next(endless)  # start the workers
        return islice(endless, steps)

    steps = options.few(50)
    some = batches(steps)
    member_step = seconds(lambda: bare.members(some, "mlp", 1)) / steps
    some = batches(steps)
    step = seconds(lambda: bare.lff_be(some, "mlp", labels, amplified)) / steps
    everything = bare.from_files(data, BATCH, shuffle=False)
    vote = seconds(lambda: bare.evaluate(networks, everything)) / len(labels)
    evaluation = seconds(lambda: bare.evaluate(networks[:2], everything)) / len(labels)
    parts = {
        "member steps": MEMBERS * MEMBER_STEPS * member_step,
        "steps and evaluations": STEPS * step + STEPS / EVERY * measured * evaluation,
        "start, data, votes, model": samples * vote,
    }
    return {"whole": sum(parts.values()), **parts}
