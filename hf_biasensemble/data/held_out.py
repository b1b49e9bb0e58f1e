"""Validation and test images cut out of the training split where the data have none."""

from dataclasses import replace

import numpy as np

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.processes import print_once
from hf_biasensemble.seeding import derived_seed


def hold_out(
    splits: dict[str, ImageSplit], validation_share: float, test_share: float, seed: int
) -> dict[str, ImageSplit]:
    """Cuts the splits that are missing out of `train`, at random within each class, and says so in one line.

    Only labels are looked at, never bias labels. The parts share the pixels of `train`, and their `index` is the row
    in the training split as loaded. A split that the data have is left alone, and so are data without `train`.

    Args:
        splits (`dict[str, ImageSplit]`): What the data have.
        validation_share (`float`): Share of the training images, in [0, 1), that become `validation`; 0: none.
        test_share (`float`): The same for `test`.
        seed (`int`): The same seed cuts the same images.

    Returns:
        `dict[str, ImageSplit]`: `train`, `validation` and `test`, as far as there are any. Each class is cut in
        proportion, up to one image, and keeps at least one training image.
    """
    shares = {"validation": validation_share, "test": test_share}
    missing = [name for name in shares if name not in splits and shares[name] > 0]
    if "train" not in splits or not missing:
        return splits
    train = splits["train"]
    labels = train.labels[train.rows].numpy()
    part = np.full(len(labels), "train", dtype=object)
    for name in missing:
        part[_draw(labels, part == "train", shares[name], derived_seed(seed, f"held-out {name}"))] = name
    cut = {name: replace(train.select(np.flatnonzero(part == name)), unreadable=[]) for name in missing}
    cut = {name: split for name, split in cut.items() if len(split)}
    kept = train.select(np.flatnonzero(part == "train"))
    listed = ", ".join(f"{len(cut.get(name, ()))} for {name} (--{name}_share {shares[name]:g})" for name in missing)
    print_once(f"no {' and no '.join(missing)} split: of {len(train)} training images, {listed}, --split_seed {seed}")
    together = {**splits, "train": kept, **cut}
    return {name: together[name] for name in ("train", *shares) if name in together}


def _draw(labels: np.ndarray, free: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Positions of `share` of all samples among the free ones; what is left after rounding down goes to the classes
    with the largest remainders."""
    random = np.random.default_rng(seed)
    counts = np.bincount(labels)
    most = np.maximum(np.bincount(labels[free], minlength=len(counts)) - 1, 0)
    exact = share * counts
    take = np.floor(exact).astype(int)
    left = round(share * len(labels)) - take.sum()
    take[np.argsort(take - exact, kind="stable")[:left]] += 1
    take = np.minimum(take, most)
    members = [random.permutation(np.flatnonzero(free & (labels == number))) for number in range(len(counts))]
    return np.concatenate([chosen[:number] for chosen, number in zip(members, take, strict=True)])
