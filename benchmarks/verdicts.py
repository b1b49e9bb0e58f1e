"""Simulate how often verdicts and intervals of the judge are wrong: `python -m benchmarks.verdicts`.

Compares two equally good models on pseudo-conflicting images. Whether a model is right on an image is independent of
the other model, but equal for its own seeds except on a tenth of the images, so images add evidence and seeds add
little. About 5% of comparisons may say "better" or "worse", and about 5% of intervals may miss the simulated accuracy.
"""

import argparse
from itertools import product

import numpy as np

from hf_biasensemble.judging.predictions import HeldOutPredictions, gain
from hf_biasensemble.judging.pseudo_groups import PseudoGroups

ALIGNED = 200
CLASSES = 5
ACCURACY = 0.7
OWN = 0.9  # fraction of the images on which a seed agrees with its method


def main(argv: list[str] | None = None) -> None:
    """Prints the percentages of wrong verdicts and intervals as a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50, 200], help="pseudo-conflicting images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 5], help="seeds of each model")
    parser.add_argument("--repeats", type=int, default=1000, help="comparisons for each row")
    asked = parser.parse_args(argv)
    print("| classes | conflicting images | seeds | false verdict | false difference on all | interval misses |")
    print("|---|---|---|---|---|---|")
    for spread, images, seeds in product(("even", "uneven"), asked.images, asked.seeds):
        found = wrong(groups_of(images, spread), seeds, asked.repeats)
        print(
            f"| {spread} | {images} | {seeds} | " + " | ".join(f"{value:.1f}" for value in found.values()) + " |",
            flush=True,
        )


def groups_of(images: int, spread: str) -> PseudoGroups:
    """Images that follow the shortcut and images that contradict it, in equal numbers per class or mostly in one."""
    shares = np.full(CLASSES, 1 / CLASSES) if spread == "even" else np.array([0.6, 0.1, 0.1, 0.1, 0.1])
    counts = np.floor(images * shares).astype(int)
    counts[0] += images - counts.sum()
    labels = np.concatenate([np.arange(ALIGNED) % CLASSES, np.repeat(np.arange(CLASSES), counts)])
    predicted = np.where(np.arange(len(labels)) < ALIGNED, labels, (labels + 1) % CLASSES)
    return PseudoGroups(labels, predicted, np.zeros(len(labels), np.float32), CLASSES, "simulated")


def wrong(groups: PseudoGroups, seeds: int, repeats: int) -> dict[str, float]:
    """Percentage of comparisons that find a difference, and of intervals that miss the accuracy."""
    random = np.random.default_rng(0)
    found = {"verdict": 0, "difference on all": 0, "interval": 0}
    for _ in range(repeats):
        one, other = (drawn_seeds(groups, seeds, random) for _ in range(2))
        gained = gain(one, other)
        for name, group in (("verdict", "conflicting"), ("difference on all", "unbiased")):
            found[name] += group in gained and not gained[group].low <= 0 <= gained[group].high
        estimate = one[0].intervals()["conflicting"]
        found["interval"] += not estimate.low <= ACCURACY <= estimate.high
    return {name: 100 * count / repeats for name, count in found.items()}


def drawn_seeds(groups: PseudoGroups, seeds: int, random: np.random.Generator) -> list[HeldOutPredictions]:
    """Predictions of the seeds of one method."""
    labels = groups.labels
    of_method = random.random(len(labels)) < ACCURACY
    tables = []
    for _ in range(seeds):
        right = np.where(random.random(len(labels)) < OWN, of_method, random.random(len(labels)) < ACCURACY)
        said = np.where(right, labels, (labels + 1) % CLASSES)
        tables.append(HeldOutPredictions(np.arange(len(labels)), said, right * 1.0, groups))
    return tables


if __name__ == "__main__":
    main()
