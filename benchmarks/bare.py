"""Plain PyTorch loops of the same methods, independent of the Trainer and this library.

Each takes an iterable of batches (images, labels, index), so the same loop runs over tensors in memory and over files.
They are as fast as a plain loop gets: Adam is fused, and the rows of each class are precomputed.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms.functional import pil_to_tensor

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
DECAY, Q, CLASSES = 0.7, 0.7, 10


# Data ----------------------------------------------------------------------------------------------------------------


def from_memory(pixels: torch.Tensor, labels: torch.Tensor, batch_size: int, std: float) -> Iterator[Batch]:
    """Infinite batches, reshuffled each epoch."""
    while True:
        for index in torch.randperm(len(pixels)).split(batch_size):
            if len(index) == batch_size:
                images = pixels.index_select(0, index).float().div_(255).div_(std)
                yield images, labels[index], index


class Files(Dataset):
    """Opens one PNG file at a time and divides by 255 and `std`."""

    def __init__(self, files: list[Path], labels: torch.Tensor, std: float = 255.0):
        self.files, self.labels, self.std = files, labels, std

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        with Image.open(self.files[position]) as image:
            pixels = pil_to_tensor(image.convert("RGB")).float() / 255 / self.std
        return pixels, self.labels[position], position


def from_files(files: Files, batch_size: int, shuffle: bool = True) -> DataLoader:
    """A loader with two workers."""
    return DataLoader(files, batch_size, shuffle=shuffle, num_workers=2, drop_last=shuffle)


def epochs(loader: DataLoader) -> Iterator[Batch]:
    """Infinite epochs of the loader."""
    return chain.from_iterable(repeat(loader))


# Networks ------------------------------------------------------------------------------------------------------------


def mlp_encoder() -> nn.Module:
    """3 x 28 x 28 -> 100 -> 100 -> 16."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((2352, 100), (100, 100), (100, 16)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def resnet18_encoder() -> nn.Module:
    """512 pooled features."""
    network = resnet18()
    network.fc = nn.Identity()
    return network


ENCODERS = {"mlp": (mlp_encoder, 16), "resnet18": (resnet18_encoder, 512)}


def classifier(backbone: str) -> nn.Module:
    """Encoder and linear head."""
    encoder, width = ENCODERS[backbone]
    return nn.Sequential(encoder(), nn.Linear(width, CLASSES))


# Methods -------------------------------------------------------------------------------------------------------------


def per_sample(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def generalized(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    probability = logits.detach().softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return (per_sample(logits, labels) * Q * probability**Q).mean()


class LossTables:
    """Moving averages of two losses of each sample, and sample weights, computed by scanning the whole table."""

    def __init__(self, labels: torch.Tensor):
        self.averages, self.seen = torch.zeros(2, len(labels)), torch.zeros(len(labels))
        self.rows_of_class = [(labels == number).nonzero().flatten() for number in range(CLASSES)]

    def weights(self, index: torch.Tensor, labels: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """Updates with losses (2, B) and returns weights (B,)."""
        old = self.averages.index_select(1, index)
        new = DECAY * old + (1 - DECAY * self.seen[index]) * losses
        self.averages[:, index] = new
        self.seen[index] = 1
        largest = torch.stack([self.averages.index_select(1, rows).amax(1) for rows in self.rows_of_class], dim=1)
        biased, debiased = new / (largest.index_select(1, labels) + 1e-8)
        return biased / (biased + debiased + 1e-8)


def adam(*networks: nn.Module, fused: bool | None = True) -> torch.optim.Optimizer:
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return torch.optim.Adam(parameters, lr=0.01, fused=fused)


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def masked_mean(losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def erm(batches: Iterable[Batch], backbone: str) -> None:
    """Cross entropy."""
    network = classifier(backbone)
    optimizer = adam(network)
    for images, labels, _ in batches:
        update(optimizer, functional.cross_entropy(network(images), labels))


def lff_be(
    batches: Iterable[Batch], backbone: str, labels: torch.Tensor, amplified: torch.Tensor, fused: bool | None = True
) -> None:
    """LfF with a bias-amplified set; `labels` (N,) and membership `amplified` (N,) are of all samples."""
    biased, debiased = classifier(backbone), classifier(backbone)
    optimizer = adam(biased, debiased, fused=fused)
    tables = LossTables(labels)
    for images, target, index in batches:
        losses = [per_sample(network(images), target) for network in (biased, debiased)]
        weight = tables.weights(index, target, torch.stack(losses).detach())
        update(optimizer, masked_mean(losses[0], amplified[index]) + (weight * losses[1]).mean())


def disent_be(batches: Iterable[Batch], backbone: str, labels: torch.Tensor, amplified: torch.Tensor) -> None:
    """DisEnt with a bias-amplified set, swapping features from the first step."""
    encoder, width = ENCODERS[backbone]
    intrinsic, bias = encoder(), encoder()
    heads = nn.ModuleList([nn.Linear(2 * width, CLASSES) for _ in range(2)])
    optimizer = adam(intrinsic, bias, heads)
    tables = LossTables(labels)
    for images, target, index in batches:
        features, bias_features = intrinsic(images), bias(images)
        place = torch.randperm(len(target))
        terms: list[torch.Tensor] = []
        for other, its_target, its_index in (
            (bias_features, target, index),
            (bias_features[place], target[place], index[place]),
        ):
            loss = per_sample(heads[0](torch.cat([features, other.detach()], dim=1)), target)
            bias_loss = per_sample(heads[1](torch.cat([features.detach(), other], dim=1)), its_target)
            if not terms:
                weight = tables.weights(index, target, torch.stack([bias_loss, loss]).detach())
            terms += [(weight * loss).mean(), masked_mean(bias_loss, amplified[its_index])]
        update(optimizer, torch.stack(terms).sum())


def members(batches: Iterable[Batch], backbone: str, count: int) -> None:
    """Several networks with generalized cross entropy, each on its own batch."""
    networks = [classifier(backbone) for _ in range(count)]
    optimizers = [adam(network) for network in networks]
    batches = iter(batches)
    for groups in zip(*[batches] * count, strict=False):
        for network, optimizer, (images, labels, _) in zip(networks, optimizers, groups, strict=True):
            update(optimizer, generalized(network(images), labels))


@torch.inference_mode()
def evaluate(networks: list[nn.Module], batches: Iterable[Batch]) -> list[float]:
    """Accuracy of each network."""
    right, count = torch.zeros(len(networks)), 0
    for images, labels, _ in batches:
        right += torch.stack([(network(images).argmax(1) == labels).sum() for network in networks])
        count += len(labels)
    return (right / count).tolist()
