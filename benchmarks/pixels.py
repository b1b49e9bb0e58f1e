"""Images of 224 pixels from the pixel store against decoding them every time, and the memory of the store.

Without a folder of image files, JPEG files of 500 x 375 pixels are generated. All contenders yield normalised, cropped
and mirrored float batches of 64:

- per sample: a `DataLoader` whose workers open files with PIL and apply torchvision's transforms, one image at a time;
- building: builds the store in an empty cache, alone and with the first epoch from it;
- opening: opens and checks an existing store;
- epoch: an epoch from the open store, which is mapped from its file.
"""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measuring import Figure, Options, seconds
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit, decode_split

SIZE, PADDING, BATCH, WORKERS, COUNT = 224, 16, 64, 2, 768
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORM = ImageTransform(MEAN, STD, crop_padding=PADDING, horizontal_flip=True)


def figures(options: Options) -> Iterator[Figure]:
    """Figures for throughput, small batches from memory, and memory use."""
    count = options.few(COUNT, 64)
    with TemporaryDirectory() as folder:
        if options.images:
            found = sorted(file for file in options.images.rglob("*") if file.suffix.lower() in (".jpg", ".png"))
            files = (found * (count // len(found) + 1))[:count]
        else:
            files = made_images(Path(folder), count)
        before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, f"{folder}/cache"
        try:
            yield throughput(files, Path(folder) / "cache")
            yield small_batches(options)
            yield memory(files)
        finally:
            datasets.config.HF_DATASETS_CACHE = before


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
    """JPEG files of smooth noise, with about the file size of photographs."""
    generator = np.random.default_rng(0)
    files = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        files.append(folder / f"{number:05}.jpg")
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def labelled(files: list[Path]) -> ImageSplit:
    """The files as a split with one class."""
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = datasets.Dataset.from_dict({"image": [str(file) for file in files]}, features=features)
    count = len(files)
    return ImageSplit(
        torch.empty(0), torch.zeros(count, dtype=torch.int64), ["all"], torch.arange(count), images=images
    )


def throughput(files: list[Path], cache: Path) -> Figure:
    """Images per second, with the store in the given cache."""
    split = labelled(files)

    def per_sample() -> float:
        return seconds(lambda: [None for _ in DataLoader(FileImages(files), BATCH, shuffle=True, num_workers=WORKERS)])

    def opened() -> ImageSplit:
        return decode_split(split, SIZE, workers=WORKERS, mapped=True)

    def building() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        return seconds(opened)

    def epoch(transform: bool = True) -> float:
        store = opened()
        return seconds(lambda: batches(store, transform))

    contenders = {
        "per sample": per_sample,
        "building": building,
        "building and an epoch": lambda: building() + epoch(),
        "opening": lambda: seconds(opened) if opened() else 0.0,
        "epoch": epoch,
        "epoch, as uint8": lambda: epoch(transform=False),
    }
    rates = {name: lambda work=work: len(files) / work() for name, work in contenders.items()}
    return Figure(f"{len(files)} images of {SIZE} px", "images/s", rates, reference="per sample")


def small_batches(options: Options) -> Figure:
    """Milliseconds per batch of 256 images of 28 pixels, from memory."""
    samples = options.few(55_000, 600)
    pixels = torch.randint(256, (samples, 3, 28, 28), dtype=torch.uint8)
    split = ImageSplit(pixels, torch.zeros(samples, dtype=torch.int64), ["all"], torch.arange(samples))
    plain = ImageTransform(MEAN, STD)

    def fetch(transform: bool) -> float:
        positions = torch.randperm(samples).split(256)[:200]

        def work() -> None:
            for rows in positions:
                batch = split.__getitems__(rows.tolist())["pixel_values"]
                if transform:
                    plain(batch, training=True)

        return 1000 * seconds(work) / len(positions)

    contenders = {"fetched": lambda: fetch(False), "fetched and normalised": lambda: fetch(True)}
    return Figure("256 images of 28 px", "ms", contenders)


def memory(files: list[Path]) -> Figure:
    """Memory growth in MB while building a store and reading it twice in random order."""

    def grown() -> dict[str, float]:
        images = labelled(files * 2)
        gc.collect()
        before = resident()
        split = decode_split(images, SIZE, mapped=True)
        built = most = resident()
        for _ in range(2):
            for rows in torch.randperm(len(split)).split(BATCH):
                split.__getitems__(rows.tolist())
                most = max(most, resident())
        size = split.pixels.shape.numel() / 1e6
        return {"size": size, "growth while building": built - before, "most growth": most - before}

    return Figure("memory of a mapped store", "MB", {"store": grown}, repeats=1, warm_ups=0)


def batches(split: ImageSplit, transform: bool = True) -> None:
    """One epoch of shuffled training batches."""
    for rows in torch.randperm(len(split)).split(BATCH):
        pixels = split.__getitems__(rows.tolist())["pixel_values"]
        if transform:
            TRANSFORM(pixels, training=True)


def resident() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
