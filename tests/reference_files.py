"""Checkpoint folders laid out as the authors' code writes them, and what their networks answer.

The networks here are plain torch and torchvision and share no code with the library.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms

from hf_biasensemble.cli.main import run_command

NUM_CLASSES = {"cmnist": 10, "bffhq": 2, "dogs_and_cats": 2, "bar": 6}
FILES = {"debiased": "best_model_d.th", "biased": "best_model_b.th"}
STEP = 500


class Mlp(nn.Module):
    """The Coloured MNIST network: of LfF with head `classifier` and an unused `proj`, of DisEnt with head `fc`."""

    def __init__(self, method: str, num_classes: int, hidden: int = 100):
        super().__init__()
        self.feature = nn.Sequential()
        for inputs, outputs in ((3 * 28 * 28, hidden), (hidden, hidden), (hidden, 16)):
            self.feature.extend([nn.Linear(inputs, outputs), nn.ReLU()])
        if method == "lff":
            self.classifier = nn.Linear(16, num_classes)
            self.proj = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        else:
            self.fc = nn.Linear(32, num_classes)
        with torch.no_grad():  # the inputs are tiny; so that the answers depend on the image all the same
            self.feature[0].weight.mul_(300)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.feature(images.flatten(1) / 255)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(features) if hasattr(self, "classifier") else self.fc(features)


class ResNet(models.ResNet):
    """torchvision's ResNet18 with a head on 512 (LfF) or 2 x 512 (DisEnt) features."""

    def __init__(self, method: str, num_classes: int):
        super().__init__(models.resnet.BasicBlock, [2, 2, 2, 2])
        self.fc = nn.Linear(512 if method == "lff" else 1024, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return nn.Sequential(*list(self.children())[:-1])(images).flatten(1)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc(features)


def network(method: str, dataset: str, seed: int) -> nn.Module:
    """One network in evaluation mode, with running statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Mlp(method, NUM_CLASSES[dataset]) if dataset == "cmnist" else ResNet(method, NUM_CLASSES[dataset])
        if dataset != "cmnist":
            for layer in made.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = None  # the plain average of what is seen, so one batch will do
            with torch.no_grad():
                made.features(1.3 * torch.randn(4, 3, 64, 64))
    return made.eval()


def networks(method: str, dataset: str, seed: int = 0) -> dict[str, nn.Module]:
    """The debiased and the biased network of a checkpoint folder."""
    return {which: network(method, dataset, 2 * seed + number) for number, which in enumerate(FILES)}


def write_checkpoint(folder: Path, method: str, dataset: str, seed: int = 0) -> Path:
    """Writes `best_model_d.th` and `best_model_b.th`.

    Args:
        folder: Where to; made if missing.
        method: "lff" or "disent".
        dataset: "cmnist", "bffhq", "dogs_and_cats" or "bar".
        seed: Of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for which, made in networks(method, dataset, seed).items():
        optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
        content = {"steps": STEP, "state_dict": made.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(content, folder / FILES[which])
    return folder


@torch.no_grad()
def expected_logits(
    method: str, dataset: str, images: Sequence[Image.Image], which: str = "debiased", seed: int = 0
) -> torch.Tensor:
    """Logits (N, classes) of the networks that `write_checkpoint` saves with the same arguments."""
    steps: list = [transforms.ToTensor()]
    if dataset != "cmnist":
        mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
        steps = [transforms.Resize((224, 224)), *steps, transforms.Normalize(mean, std)]
    batch = torch.stack([transforms.Compose(steps)(image.convert("RGB")) for image in images])
    pair = networks(method, dataset, seed)
    if method == "lff":
        return pair[which].head(pair[which].features(batch))
    return pair[which].head(torch.cat([pair["debiased"].features(batch), pair["biased"].features(batch)], dim=1))


def rewritten(folder: Path, target: Path, change, which: tuple[str, ...] = tuple(FILES), **options) -> Path:
    """A copy of the folder in which `change(content)` was made to the files of `which`."""
    target.mkdir()
    for name, file in FILES.items():
        content = torch.load(folder / file, weights_only=True)
        if name in which:
            content = change(content) or content
        torch.save(content, target / file, **options)
    return target


def with_weights(change):
    """A change of each tensor, or of the dict of tensors."""

    def changed(content: dict) -> None:
        content["state_dict"] = change(content["state_dict"])

    return changed


def import_reference(folder: Path, output_dir: Path, method: str = "lff", dataset: str = "cmnist", *more: str) -> int:
    """The command; gives its exit status."""
    words = [
        "--reference_checkpoint",
        folder,
        "--method",
        method,
        "--reference_dataset",
        dataset,
        "--output_dir",
        output_dir,
        *more,
    ]
    return run_command("import_reference", [str(word) for word in words])
