"""Steps of LfF + BiasEnsemble on Coloured MNIST: the trainer against a loop that opens PNG files with two workers."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import bare
from benchmarks.measuring import Figure, Options, seconds
from benchmarks.trainers import Setting, amplified_set, load_splits, seconds_per_step, write_files


def figures(options: Options) -> Iterator[Figure]:
    """One figure in steps per second."""
    setting = Setting()
    with options.coloured_mnist() as words, TemporaryDirectory() as folder:
        split = load_splits(words)["train"]
        files = write_files(split, Path(folder) / "images", options.few(20_000, 600))
        labels = split.labels[: len(files)]
        amplified = amplified_set(len(files))
        assert isinstance(split.pixels, torch.Tensor)
        pixels = split.pixels[: len(files)]

        def from_files() -> float:
            steps = options.few(60)
            batches = bare.epochs(bare.from_files(bare.Files(files, labels), setting.batch_size))
            next(batches)  # start the workers
            work = islice(batches, steps)
            return steps / seconds(lambda: bare.lff_be(work, "mlp", labels, amplified))

        def from_memory() -> float:
            steps = options.few(300)
            work = islice(bare.from_memory(pixels, labels, setting.batch_size, setting.image_scale), steps)
            return steps / seconds(lambda: bare.lff_be(work, "mlp", labels, amplified))

        contenders = {
            "loop over PNG files": from_files,
            "loop over memory": from_memory,
            "trainer": lambda: 1 / seconds_per_step("lff_be", split, setting, options.few(300)),
        }
        yield Figure("lff_be, batch 256", "steps/s", contenders, reference="loop over PNG files")
