"""Holds out missing validation and test splits from the training split, and limits the number of images."""

from dataclasses import replace

import numpy as np

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once
from hf_biasensemble.internal.seeding import derived_seed


def hold_out(
    splits: dict[str, ImageSplit], validation_share: float, test_share: float, seed: int
) -> dict[str, ImageSplit]:
    """Holds out missing splits from `train`, stratified by class, and prints their sizes.

    The shares are fractions of the training images, in [0, 1). Each class is cut in proportion, up to one image, and
    keeps at least one training image; bias labels are not used. The parts share the pixels of `train`, and their
    `index` is the row in the training split as loaded. Returns datasets without `train` unchanged.
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
    listed = ", ".join(f"{(part == name).sum()} for {name} (--{name}_share {shares[name]:g})" for name in missing)
    print_once(f"no {' and no '.join(missing)} split: of {len(train)} training images, {listed}, --split_seed {seed}")
    return _divided(splits, part)


def with_fold(splits: dict[str, ImageSplit], number: int, count: int, seed: int) -> dict[str, ImageSplit]:
    """Uses fold `number` (0 to count - 1) of `train` as `validation`; see [`folds_of`]."""
    is_held_out = folds_of(splits["train"], count, seed, "--validation_fold") == number
    print_once(
        f"part {number + 1} of {count} of the training images, {is_held_out.sum():,}, is held out as validation"
    )
    return _divided(splits, np.where(is_held_out, "validation", "train"))


def _divided(splits: dict[str, ImageSplit], part: np.ndarray) -> dict[str, ImageSplit]:
    """Moves training images to the splits that `part` (R,) names."""
    train, parts = splits["train"], dict(splits)
    for name in ("train", "validation", "test"):
        if (part == name).any():
            moved = train.select(np.flatnonzero(part == name))
            parts[name] = moved if name == "train" else replace(moved, unreadable=[])
    return {name: parts[name] for name in ("train", "validation", "test") if name in parts}


def folds_of(train: ImageSplit, count: int, seed: int, option: str) -> np.ndarray:
    """The fold, 0 to count - 1, of each training image, int64 (R,), stratified by class.

    Refuses a class with fewer images than folds, in a message about `option`.
    """
    labels = train.labels[train.rows].numpy()
    order = np.random.default_rng(derived_seed(seed, f"parts of train, {count}")).permutation(len(labels))
    part = np.empty(len(labels), dtype=np.int64)
    for label, of_class in enumerate(_by_class(order, labels)):
        if 0 < len(of_class) < count:
            raise BiasEnsembleError(
                f"{option}: expected {count} training images or more of each class, found {len(of_class)} of "
                f"{train.class_names[label]}; use fewer parts"
            )
        part[of_class] = np.arange(len(of_class)) % count
    return part


def at_most(
    splits: dict[str, ImageSplit], max_train_samples: int | None, max_eval_samples: int | None, seed: int
) -> dict[str, ImageSplit]:
    """Keeps a random sample of each split, in its order, and prints the numbers; `None` keeps all images.

    A smaller sample is a subset of a larger one. The parts share the pixels, and their `index` is the row in the split
    as loaded. Refuses a sample of `train` that lacks a class.
    """
    kept = dict(splits)
    for name, split in splits.items():
        option, most = ("train", max_train_samples) if name == "train" else ("eval", max_eval_samples)
        if most is not None and most < len(split):
            order = np.random.default_rng(derived_seed(seed, f"at most of {name}")).permutation(len(split))
            kept[name] = split.select(np.sort(order[:most]))
            print_once(f"{name}: {most:,} of {len(split):,} images are used (--max_{option}_samples)")
    lost = splits["train"].classes_lost(kept["train"]) if "train" in splits else []
    if lost:
        raise BiasEnsembleError(
            f"--max_train_samples {max_train_samples}: expected images of every class, found none of "
            f"{', '.join(lost[:10])}; raise it"
        )
    return kept


def _by_class(positions: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Groups positions of samples by class and keeps their order, in one sort for any number of classes."""
    of_positions = labels[positions]
    ends = np.cumsum(np.bincount(of_positions, minlength=labels.max() + 1))
    return np.split(positions[np.argsort(of_positions, kind="stable")], ends[:-1])


def _draw(labels: np.ndarray, free: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draws positions for `share` of all samples from the free ones, divided among classes by largest remainders."""
    random = np.random.default_rng(seed)
    counts = np.bincount(labels)
    most = np.maximum(np.bincount(labels[free], minlength=len(counts)) - 1, 0)
    exact = share * counts
    take = np.floor(exact).astype(int)
    left = round(share * len(labels)) - take.sum()
    take[np.argsort(take - exact, kind="stable")[:left]] += 1
    take = np.minimum(take, most)
    members = [random.permutation(of_class) for of_class in _by_class(np.flatnonzero(free), labels)]
    return np.concatenate([chosen[:number] for chosen, number in zip(members, take, strict=True)])
