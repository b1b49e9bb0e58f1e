"""Steps per second of the LfF + BiasEnsemble trainer against a bare PyTorch loop over the same in-memory tensors.

    python -m benchmarks.step [--steps 400] [--repeats 5]

Both train the Coloured MNIST MLP at batch 256 on 55,000 random images. The two take turns, so that a machine whose
speed drifts slows both.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SAMPLES, CLASSES, BATCH, DECAY = 55_000, 10, 256, 0.7


def bare_loop(pixels: torch.Tensor, labels: torch.Tensor, selected: torch.Tensor, steps: int) -> float:
    """Seconds per step of a plain loop with two networks, two optimisers and a full rescan for the class maximum."""

    def network() -> nn.Module:
        layers = [nn.Flatten()]
        for inputs, outputs in ((2352, 100), (100, 100), (100, 16)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(16, CLASSES))

    biased, debiased = network(), network()
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (biased, debiased)]
    tables, seen = torch.zeros(2, SAMPLES), torch.zeros(SAMPLES)
    members_of = [(labels == number).nonzero().flatten() for number in range(CLASSES)]
    started = time.perf_counter()
    for _ in range(steps):
        index = torch.randint(SAMPLES, (BATCH,))
        images, target = pixels[index].float().div_(255).div_(255), labels[index]
        losses = torch.stack(
            [functional.cross_entropy(m(images), target, reduction="none") for m in (biased, debiased)]
        )
        tables[:, index] = DECAY * tables[:, index] + (1 - DECAY * seen[index]) * losses.detach()
        seen[index] = 1
        maximum = torch.stack([tables[:, rows].amax(1) for rows in members_of], dim=1)
        scaled = tables[:, index] / (maximum[:, target] + 1e-8)
        weight = scaled[0] / (scaled.sum(0) + 1e-8)
        mask = selected[index]
        loss = (losses[0] * mask).sum() / mask.sum().clamp(min=1) + (weight * losses[1]).mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return (time.perf_counter() - started) / steps


def trainer(pixels: torch.Tensor, labels: torch.Tensor, selected: torch.Tensor, steps: int) -> float:
    """Seconds per step of the library's trainer as `train.py` builds it."""
    from hf_biasensemble.arguments import DebiasingArguments, ModelArguments
    from hf_biasensemble.data.pixels import ImageSplit
    from hf_biasensemble.models.build import build_trainable
    from hf_biasensemble.run import TRAINERS, image_transform, use_own_progress
    from hf_biasensemble.selection import Selection

    names = [str(number) for number in range(CLASSES)]
    split = ImageSplit(pixels, labels, names, torch.arange(SAMPLES))
    model_args = ModelArguments(image_scale=255.0)
    flags = selected.numpy()
    selection = Selection(np.arange(SAMPLES), labels.numpy(), flags, flags, flags, {})
    with tempfile.TemporaryDirectory() as folder:
        args = DebiasingArguments(
            output_dir=folder, max_steps=steps, learning_rate=0.01, eval_strategy="no", save_strategy="no",
            disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        model = build_trainable(model_args, names, "lff_be", seed=0)
        run = TRAINERS["lff_be"](model, args, image_transform(model_args), train_dataset=split, selection=selection)  # type: ignore[call-arg]
        use_own_progress(run)
        return run.train().metrics["train_runtime"] / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    pixels = torch.randint(256, (SAMPLES, 3, 28, 28), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (SAMPLES,))
    selected = torch.rand(SAMPLES) < 0.98
    seconds: dict[str, list[float]] = {"bare loop": [], "trainer": []}
    for _ in range(options.repeats + 1):
        seconds["bare loop"].append(bare_loop(pixels, labels, selected, options.steps))
        seconds["trainer"].append(trainer(pixels, labels, selected, options.steps))
    ratios = [ours / bare for ours, bare in zip(seconds["trainer"][1:], seconds["bare loop"][1:], strict=True)]
    for name, values in seconds.items():
        counted = [1 / value for value in values[1:]]  # the first is a warm-up
        spread = f"({min(counted):.0f} to {max(counted):.0f})"
        print(f"{name:10} steps/s: median {statistics.median(counted):.0f} {spread}")
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"step time, trainer / bare loop: median {statistics.median(ratios):.2f} {spread}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, {SAMPLES:,} samples")


if __name__ == "__main__":
    main()
