"""How often verdicts and intervals of the judge are wrong, in simulations: `python -m benchmarks.verdicts`.

Two equally good models are compared on pseudo-conflicting images. Each is right on an image for reasons of its own,
which its seeds share but for a tenth; so seeds add little evidence, and images do. About 5 % of comparisons may say
"better" or "worse", and about 5 % of intervals may miss the accuracy that was simulated.
"""

import argparse
from itertools import product

import numpy as np

from hf_biasensemble.judging.predictions import HeldOutPredictions, gain
from hf_biasensemble.judging.pseudo_groups import PseudoGroups

ALIGNED = 200
CLASSES = 5
ACCURACY = 0.7
OWN = 0.9  # fraction of the images on which a seed does what the method does


def main(argv: list[str] | None = None) -> None:
    """Prints a table: percent of comparisons that tell equal models apart, and of intervals that miss the truth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 20, 50, 200], help="pseudo-conflicting images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 5], help="seeds of each model")
    parser.add_argument("--repeats", type=int, default=1000, help="comparisons of each kind")
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
    """Images that follow the shortcut, and others that contradict it: each class alike, or most of one class."""
    shares = np.full(CLASSES, 1 / CLASSES) if spread == "even" else np.array([0.6, 0.1, 0.1, 0.1, 0.1])
    counts = np.floor(images * shares).astype(int)
    counts[0] += images - counts.sum()
    labels = np.concatenate([np.arange(ALIGNED) % CLASSES, np.repeat(np.arange(CLASSES), counts)])
    predicted = np.where(np.arange(len(labels)) < ALIGNED, labels, (labels + 1) % CLASSES)
    return PseudoGroups(labels, predicted, np.zeros(len(labels), np.float32), CLASSES, "simulated")


def wrong(groups: PseudoGroups, seeds: int, repeats: int) -> dict[str, float]:
    """Percent of comparisons that tell equal models apart, and of intervals that miss the accuracy."""
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
    """What the seeds of a method say of the images."""
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
