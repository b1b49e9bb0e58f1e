"""Generated photographs of several shapes, and a tiny pretrained backbone for them."""

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

BACKBONE = "test_resnet"  # timm: 160 pixels, crop_pct .95, bilinear, mean and standard deviation .5
SHAPES = [(300, 200), (200, 300), (257, 191), (64, 400), (500, 61), (90, 90), (40, 33), (3, 7), (171, 168), (230, 231)]
"""Width and height: wide, tall, odd, elongated, square and smaller than any crop."""
CLASS_COLOURS = {"ant": (200, 80, 60), "owl": (60, 90, 210)}


def photograph(width: int, height: int, seed: int = 0, colour: tuple[int, int, int] = (120, 130, 110)) -> Image.Image:
    """Coarse shapes, fine noise and one colour over all."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    shapes = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    noise = generator.normal(0, 25, (height, width, 3))
    return Image.fromarray((0.5 * shapes + 0.5 * np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def photograph_folder(folder: Path, per_class: int = 12) -> Path:
    """Class folders in train, validation and test, each photograph of another shape, PNG and JPEG in turn."""
    number = 0
    for split in ("train", "validation", "test"):
        for name, colour in CLASS_COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for _ in range(per_class):
                ending = ("png", "jpg")[number % 2]
                image = photograph(*SHAPES[number % len(SHAPES)], seed=number, colour=colour)
                image.save(folder / split / name / f"{number}.{ending}")
                number += 1
    return folder


def weights_file(file: Path, backbone: str = BACKBONE, seed: int = 3) -> Path:
    """Weights of a backbone with statistics of batch normalisation that are not those of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(backbone, num_classes=7)
        network.train()(torch.rand(4, 3, 64, 64))
        save_file(network.state_dict(), file)
    return file
