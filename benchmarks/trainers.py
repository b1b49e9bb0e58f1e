"""The library's trainers, built as in `train.py`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from hf_biasensemble.arguments import DataArguments, ModelArguments, SelectionArguments
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_transform, load_image_splits
from hf_biasensemble.methods import METHODS
from hf_biasensemble.methods.disent import DisentArguments
from hf_biasensemble.models.build import build_members
from hf_biasensemble.reporting.run.progress import use_own_progress
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.base import DebiasingTrainer
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

CLASS_NAMES = [str(number) for number in range(10)]


@dataclass(frozen=True)
class Setting:
    """A network and its data."""

    backbone: str = "mlp"
    image_size: int = 28
    batch_size: int = 256
    image_scale: float = 255.0  # the second division by 255 of the published recipe

    def model_args(self) -> ModelArguments:
        return ModelArguments(backbone=self.backbone, image_size=self.image_size, image_scale=self.image_scale)


def random_split(samples: int, image_size: int = 28) -> ImageSplit:
    """Random images with random labels."""
    pixels = torch.randint(256, (samples, 3, image_size, image_size), dtype=torch.uint8)
    return ImageSplit(pixels, torch.randint(10, (samples,)), CLASS_NAMES, torch.arange(samples))


def load_splits(words: list[str]) -> dict[str, ImageSplit]:
    """The splits of the dataset from `Options.coloured_mnist`."""
    named = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    return load_image_splits(DataArguments(**named), 28)  # type: ignore[arg-type]


def write_files(split: ImageSplit, folder: Path, count: int) -> list[Path]:
    """The first images of a split as PNG files."""
    folder.mkdir()
    files = []
    pixels = split.pixels.index_select(0, torch.arange(min(count, len(split.pixels))))
    for number, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        files.append(folder / f"{number:06}.png")
        Image.fromarray(image).save(files[-1])
    return files


def amplified_set(samples: int) -> torch.Tensor:
    """A bias-amplified set without every fiftieth sample."""
    return torch.arange(samples) % 50 != 0


@contextmanager
def trainer(
    method: str,
    split: ImageSplit,
    setting: Setting,
    steps: int,
    num_members: int = 5,
    share_batches: bool = False,
    members_at_once: int | None = None,
    use_cpu: bool = True,
) -> Iterator[DebiasingTrainer]:
    """A trainer of a method, or of the `members`, without evaluation and checkpoints."""
    model_args = setting.model_args()
    with TemporaryDirectory() as folder:
        args = DisentArguments(
            output_dir=folder,
            method="lff_be" if method == "members" else method,
            max_steps=steps,
            per_device_train_batch_size=setting.batch_size,
            learning_rate=0.01,
            swap_start_step=0,
            eval_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=use_cpu,
        )
        transform = image_transform(model_args)
        built: DebiasingTrainer
        if method == "members":
            networks = build_members(model_args, CLASS_NAMES, num_members, seed=0)
            selection_args = SelectionArguments(
                num_members=num_members,
                member_agreement=1,
                share_batches=share_batches,
                members_at_once=members_at_once,
            )
            built = BiasEnsembleTrainer(networks, args, transform, selection_args, train_dataset=split)
        else:
            flags = amplified_set(len(split)).numpy()
            labels = split.labels.numpy()
            selection = Selection(np.arange(len(split)), labels, flags, flags, flags, {})
            extra = {"selection": selection} if METHODS[method].selector else {}
            model = METHODS[method].network(model_args, CLASS_NAMES, 0)
            built = METHODS[method].trainer(model, args, transform, train_dataset=split, **extra)
        use_own_progress(built)
        yield built


def seconds_per_step(method: str, split: ImageSplit, setting: Setting, steps: int) -> float:
    """Seconds per step, from the trainer's own runtime."""
    with trainer(method, split, setting, steps) as built:
        return built.train().metrics["train_runtime"] / steps
