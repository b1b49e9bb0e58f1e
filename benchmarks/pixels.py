"""Images per second from the pixel store against decoding each image anew, and what the store needs in memory.

    python -m benchmarks.pixels [--images FOLDER] [--count 768] [--repeats 5] [--workers 2]

The contenders take turns, so that a machine whose speed drifts slows all of them. Without a folder of image files,
JPEG files of 500 x 375 pixels are made. All yield normalised, cropped and mirrored float batches of 64 at 224 pixels:

- per sample: a `DataLoader` whose workers open files with PIL and apply torchvision's transforms, one image at a time;
- cold: the store is built in an empty cache, by itself and with the first epoch of batches from it;
- warm: the store is there, mapped from its file; opening it, with its check, is timed by itself.
"""

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from hf_biasensemble.data.loading import LabelledSplit
from hf_biasensemble.data.pixels import ImageSplit, decode_split
from hf_biasensemble.data.transforms import ImageTransform

SIZE, PADDING, BATCH = 224, 16, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORM = ImageTransform(MEAN, STD, crop_padding=PADDING, horizontal_flip=True)


class FileImages(Dataset):
    """One image at a time, as torchvision users load them."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize((SIZE, SIZE)),
                transforms.RandomCrop(SIZE, padding=PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.files[position]) as image:
            return self.transform(image.convert("RGB"))


def made_images(folder: Path, count: int) -> list[Path]:
    """JPEG files of smooth noise: about as large as photographs of that size."""
    generator = np.random.default_rng(0)
    files = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        files.append(folder / f"{number:05}.jpg")
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def labelled(files: list[Path]) -> LabelledSplit:
    """The files as a split, of one class."""
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = datasets.Dataset.from_dict({"image": [str(file) for file in files]}, features=features)
    return LabelledSplit(images, np.zeros(len(files), dtype=np.int64), ["all"], None, None)


def batches(split: ImageSplit) -> None:
    """One epoch of training batches in a random order."""
    for rows in torch.randperm(len(split)).split(BATCH):
        TRANSFORM(split.__getitems__(rows.tolist())["pixel_values"], training=True)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def resident() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def summary(values: list[float], form: str = ".2f") -> str:
    return f"median {statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def throughput(files: list[Path], workers: int, repeats: int) -> None:
    """Prints images per second of the contenders, and their ratios."""
    split = labelled(files)
    took: dict[str, list[float]] = {
        name: [] for name in ("per sample", "cold", "cold and an epoch", "open", "warm", "warm, no transform")
    }

    def per_sample() -> None:
        for _ in DataLoader(FileImages(files), BATCH, shuffle=True, num_workers=workers):
            pass

    for _ in range(repeats + 1):  # the first is a warm-up
        shutil.rmtree(datasets.config.HF_DATASETS_CACHE, ignore_errors=True)
        took["per sample"].append(seconds(per_sample))
        took["cold"].append(seconds(lambda: decode_split(split, SIZE, workers=workers, mapped=True)))
        took["open"].append(seconds(lambda: decode_split(split, SIZE, mapped=True)))
        mapped = decode_split(split, SIZE, mapped=True)
        took["warm"].append(seconds(lambda store=mapped: batches(store)))
        took["cold and an epoch"].append(took["cold"][-1] + took["warm"][-1])
        order = torch.randperm(len(files)).split(BATCH)
        took["warm, no transform"].append(
            seconds(lambda store=mapped, order=order: [store.__getitems__(rows.tolist()) for rows in order])
        )
    for name, values in took.items():
        print(f"{name:20} images/s: {summary([len(files) / value for value in values[1:]], '.0f')}")
    for name in ("cold", "cold and an epoch", "warm", "warm, no transform"):
        ratios = [before / now for before, now in zip(took["per sample"][1:], took[name][1:], strict=True)]
        print(f"{name + ' / per sample':31}: {summary(ratios)}")


def small_batches(repeats: int) -> None:
    """Prints the milliseconds of a batch of 256 images of 28 pixels, from memory."""
    pixels = torch.randint(256, (55_000, 3, 28, 28), dtype=torch.uint8)
    split = ImageSplit(pixels, torch.zeros(55_000, dtype=torch.int64), ["all"], torch.arange(55_000))
    positions = torch.randperm(55_000).split(256)[:200]
    plain = ImageTransform(MEAN, STD)

    def fetch(transform: bool) -> None:
        for rows in positions:
            batch = split.__getitems__(rows.tolist())["pixel_values"]
            if transform:
                plain(batch, training=True)

    for name, transform in (("fetched", False), ("fetched and normalised", True)):
        fetch(transform)
        values = [1e3 * seconds(lambda transform=transform: fetch(transform)) / 200 for _ in range(repeats)]
        print(f"256 images of 28 pixels {name}: {summary(values, '.3f')} ms")


def memory(files: list[Path], times: int) -> None:
    """Prints how the process grows while it reads a store that is `times` as large as the limit."""
    images = labelled(files * 2)
    gc.collect()
    before = resident()
    split = decode_split(images, SIZE, mapped=True)
    size = split.pixels.shape.numel() / 1e6
    built = resident()
    most = built
    for _ in range(2):
        for rows in torch.randperm(len(split)).split(BATCH):
            split.__getitems__(rows.tolist())
            most = max(most, resident())
    print(f"mapped store of {size:.0f} MB ({times} times a limit of {size / times:.0f} MB): the process grew by")
    print(f"  {built - before:.0f} MB while it was built, {most - before:.0f} MB at most in two epochs")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, help="folder of image files; made ones by default")
    parser.add_argument("--count", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = f"{folder}/cache"
        if options.images:
            found = sorted(file for file in options.images.rglob("*") if file.suffix.lower() in (".jpg", ".png"))
            files = (found * (options.count // len(found) + 1))[: options.count]
        else:
            files = made_images(Path(folder), options.count)
        throughput(files, options.workers, options.repeats)
        small_batches(options.repeats)
        memory(files, times=4)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.count} images, batch {BATCH}")


if __name__ == "__main__":
    main()
