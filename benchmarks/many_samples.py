"""Memory of each stage of a run on frozen features with many samples and classes: `python -m benchmarks.many_samples`.

The run is that of `train.py` with `--audit`, on generated features and small images. A feature vector is a prototype
of the bias, which equals the class for most samples, plus noise, so members learn the bias. Only private memory
counts: the operating system can reclaim pages of the feature store and images, which are mapped from files.
"""

import argparse
import functools
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch is imported, as in the commands

import datasets
import numpy as np
import pyarrow as pa
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.data.store.array_store import open_or_make
from hf_biasensemble.data.store.making import Store
from hf_biasensemble.methods.lff import LffTrainer
from hf_biasensemble.models.early_layers import EarlyAndFinal
from hf_biasensemble.models.frozen import FrozenBackbone
from hf_biasensemble.models.preprocessing import with_preprocessing
from hf_biasensemble.runs import prepared, selecting
from hf_biasensemble.runs import run as whole_run
from hf_biasensemble.runs.run_arguments import parse_run
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer
from hf_biasensemble.trainers.evaluating import EvaluatingTrainer

BACKBONE, SIDE = "test_resnet", 8
_ENCODER = EarlyAndFinal(timm.create_model(BACKBONE, num_classes=0), SIDE)
WIDTH = _ENCODER.width + _ENCODER.early_width
CONFLICTING = 0.05
ROWS_AT_ONCE = 1 << 16
STAGES: list[tuple[Any, str, str]] = [
    (FrozenBackbone, "encode", "opening features, their mean and deviation"),
    (selecting, "_trained", "training the members"),
    (BiasEnsembleTrainer, "select", "votes"),
    (whole_run, "pseudo_groups_of", "pseudo-groups of the validation split"),
    (LffTrainer, "train", "training, with its sample table"),
    (EvaluatingTrainer, "held_out_predictions", "predictions for a split, last"),
    (whole_run, "judgement", "judgement, with intervals"),
    (whole_run, "write_run_figures", "figures"),
    (whole_run, "write_model_card", "model card"),
    (whole_run, "write_audit", "audit: page and lists"),
]
SAMPLER = """
import select, sys
most = 0
while True:
    with open(f"/proc/{sys.argv[1]}/status") as stream:
        most = max(most, next(int(line.split()[1]) for line in stream if line.startswith("RssAnon")))
    if select.select([sys.stdin], [], [], 0.002)[0]:
        if not sys.stdin.readline():
            break
        print(most, flush=True)
        most = 0
"""


class PrivateMemory:
    """Peak private memory of this process in MB, which a second process samples every 2 ms."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", SAMPLER, str(os.getpid())]
        self._sampler = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._open: list[float] = []
        self.rows: dict[str, tuple[float, float, float]] = {}

    def since_last_time(self) -> float:
        """The peak since the last call; also counts for all stages being measured."""
        assert self._sampler.stdin and self._sampler.stdout
        self._sampler.stdin.write("\n")
        most = int(self._sampler.stdout.readline()) / 1e3
        self._open = [max(most, before) for before in self._open]
        return most

    def measured(self, work: Callable, name: str) -> Callable:
        """Wraps the work; stores MB before, peak MB and seconds in `rows`."""

        @functools.wraps(work)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.since_last_time()
            before, started = self.since_last_time(), time.perf_counter()
            self._open.append(before)
            try:
                return work(*args, **kwargs)
            finally:
                self.since_last_time()
                self.rows[name] = before, self._open.pop(), time.perf_counter() - started
                print(f"{name}: {self.rows[name][1]:,.0f} MB", file=sys.stderr, flush=True)

        return wrapper

    def stop(self) -> None:
        """Ends the second process."""
        self._sampler.communicate()


def made_up(folder: Path, name: str, samples: int, classes: int, prototypes: np.ndarray) -> tuple[ImageSplit, Path]:
    """A split of identical images, mapped from files, and a file with their features."""
    random = np.random.default_rng(len(name))
    labels = np.resize(np.arange(classes), samples)
    conflicting = random.random(samples) < CONFLICTING
    bias = np.where(conflicting, random.integers(0, classes, samples), labels)
    pixels = np.memmap(folder / f"{name}.pixels", np.uint8, "w+", shape=(samples, 3, SIDE, SIDE))
    pixels[0] = len(name)  # so splits of equal size differ
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "teal").save(stream, "PNG")
    images = datasets.Features({"image": datasets.Image(decode=False)})
    table, features = folder / f"{name}.arrow", folder / f"{name}.npy"
    values = np.lib.format.open_memmap(features, "w+", np.float16, (samples, 1, WIDTH))
    with pa.OSFile(str(table), "wb") as file, pa.ipc.new_stream(file, images.arrow_schema) as writer:
        for start in range(0, samples, ROWS_AT_ONCE):
            of_bias = bias[start : start + ROWS_AT_ONCE]
            noise = random.standard_normal((len(of_bias), WIDTH), np.float32)
            values[start : start + len(of_bias), 0] = prototypes[of_bias] + noise
            rows = range(start, start + len(of_bias))
            records = [
                {"bytes": stream.getvalue(), "path": f"n{labels[row]:08}/n{labels[row]:08}_{row:08}.JPEG"}
                for row in rows
            ]
            writer.write_table(pa.table({"image": pa.array(records, images.arrow_schema.field("image").type)}))
    names = [f"class {number:04}" for number in range(classes)]
    split = ImageSplit(
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
        names,
        torch.arange(samples),
        bias,
        bias != labels,
        names,
        images=datasets.Dataset.from_file(str(table)),
    )
    return split, features


def settings(folder: Path, steps: int, batch_size: int) -> tuple[Any, ...]:
    """The settings of a run with a frozen backbone of random weights."""
    torch.manual_seed(0)
    weights = folder / "backbone.safetensors"
    save_file(timm.create_model(BACKBONE, num_classes=0).state_dict(), weights)
    given = {
        "method": "lff_be",
        "dataset_name": folder / "made_up",
        "output_dir": folder / "out",
        "backbone": BACKBONE,
        "pretrained_weights": weights,
        "freeze_backbone": True,
        "image_size": SIDE,
        "crop_pct": 1,
        "member_steps": steps,
        "max_steps": steps,
        "eval_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rate": 0.01,
        "member_threshold": 0.5,
        "save_strategy": "no",
        "audit": True,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return parse_run([word for name, value in given.items() for word in (f"--{name}", str(value))])


def measure(samples: int, classes: int, held_out: int, steps: int, batch_size: int) -> PrivateMemory:
    """Generates the data and runs the stages."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        data_args, model_args, selection_args, args = settings(folder, steps, batch_size)
        model_args = with_preprocessing(model_args)
        prototypes = 2 * np.random.default_rng(0).standard_normal((classes, WIDTH), np.float32)
        sizes = {"train": samples, "validation": held_out, "test": held_out}
        made = {split: made_up(folder, split, size, classes, prototypes) for split, size in sizes.items()}
        splits = {split: images for split, (images, _) in made.items()}
        cache, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, f"{name}/cache"
        memory = PrivateMemory()
        kept = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in STAGES]
        load = prepared.load_training_splits
        try:
            _store(model_args, splits, {split: file for split, (_, file) in made.items()})
            prepared.load_training_splits = lambda *_: splits
            for owner, attribute, title in STAGES:
                setattr(owner, attribute, memory.measured(getattr(owner, attribute), title))
            memory.measured(whole_run.run, "the whole run")(data_args, model_args, selection_args, args)
        finally:
            for owner, attribute, work in kept:
                setattr(owner, attribute, work)
            prepared.load_training_splits = load
            datasets.config.HF_DATASETS_CACHE = cache
            memory.stop()
    return memory


def _store(model_args: Any, splits: dict[str, ImageSplit], files: dict[str, Path]) -> None:
    """Stores the features where the run looks for those of the backbone."""
    backbone = FrozenBackbone.of(model_args, image_transform(model_args))
    for split, file in files.items():
        made = np.load(file, mmap_mode="r")

        def blocks(rows: range, notes: dict[str, Any], made: np.ndarray = made) -> Iterator[np.ndarray]:
            yield made[rows.start : rows.stop]

        name = backbone.name_of_features(splits[split].pixels, {"views": 0})
        open_or_make(Store("features", name, made.shape, np.dtype(np.float16), blocks))
        file.unlink()


def main(argv: list[str] | None = None) -> int:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_samples", description=__doc__)
    parser.add_argument("--samples", type=int, default=1_280_000, help="training samples")
    parser.add_argument("--held_out", type=int, help="validation and test samples each (default: a 25th of --samples)")
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=300, help="steps of the members and of training")
    parser.add_argument("--batch_size", type=int, default=512)
    given = parser.parse_args(argv)
    held_out = given.held_out or given.samples // 25
    memory = measure(given.samples, given.classes, held_out, given.steps, given.batch_size)
    print("| stage | MB before | MB at most | seconds |\n|---|---|---|---|")
    for name in [*(title for _, _, title in STAGES), "the whole run"]:
        before, most, seconds = memory.rows[name]
        print(f"| {name} | {before:,.0f} | {most:,.0f} | {seconds:,.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
