"""Severities such as "1pct", and mixtures of images in which that fraction is bias-conflicting."""

import math
import re
import zlib
from argparse import Namespace
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from hf_biasensemble.benchmark_datasets.repository import SHARED, RepositoryParser
from hf_biasensemble.internal.errors import BiasEnsembleError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

Splits = dict[tuple[str, str], "pd.DataFrame"]
"""Tables of `image_files` by (config, split)."""

VALIDATION_SHARE = 0.1
MIXING = """- For severity s, `round(aligned * s / (1 - s))` bias-conflicting images were added to training and
  validation, in proportion to the classes, which makes their fraction s up to rounding."""


def parse_severity(text: str) -> tuple[str, Fraction]:
    """Parses "<number>pct", 0 < number < 100, into its shortest name ("1.0pct" becomes "1pct") and the fraction."""
    number = re.search(r"\d+(?:\.\d*)?|\.\d+", text)
    percent = Decimal(number[0]).normalize() if number else Decimal(0)
    near = f"{percent:f}pct" if 0 < percent < 100 else "1pct"
    if not re.fullmatch(r"\d+(\.\d+)?pct", text) or not 0 < percent < 100:
        raise BiasEnsembleError(
            f"expected a severity of the form '<number>pct' with 0 < number < 100, found {text!r}; try {near!r}"
        )
    return near, Fraction(percent) / 100


def random_generator(seed: int, purpose: str) -> np.random.Generator:
    """An independent stream for each purpose, so no split or config depends on the others."""
    if seed < 0:
        raise BiasEnsembleError(f"expected --seed of 0 or more, found {seed}; use another seed")
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def apportion(total: int, sizes: np.ndarray) -> np.ndarray:
    """Divides `total` among classes in proportion to their sizes, by largest remainders."""
    quotas = [Fraction(total * int(size), int(sizes.sum())) for size in sizes]
    counts = np.array([math.floor(quota) for quota in quotas])
    by_remainder = sorted(range(len(sizes)), key=lambda c: -(quotas[c] % 1))  # stable: ties go to the lower class
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def draw(labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sorted rows of `counts[c]` random samples of each class c, without replacement."""
    rows = [rng.choice(np.flatnonzero(labels == c), count, replace=False) for c, count in enumerate(counts)]
    return np.sort(np.concatenate(rows))


def draw_by_class(labels: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted rows of `total` random samples with the class proportions of `labels`."""
    return draw(labels, apportion(total, np.bincount(labels)), rng)


def add_mixture_options(parser: RepositoryParser, severities: Sequence[str]) -> None:
    """Adds the options of [`mix`] to the parser of a script."""
    parser.add_config_names(severities)
    text = f"fraction held out for validation ({VALIDATION_SHARE})"
    parser.add_argument("--validation_share", type=float, default=VALIDATION_SHARE, help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (0)")


def mix(
    files: "pd.DataFrame", class_names: Sequence[str], options: Namespace, test: "pd.DataFrame | None" = None
) -> tuple[Splits, str]:
    """Mixes a table of `image_files` into train, validation and test for each severity; returns the splits and the
    config names, separated by spaces.

    The bias-aligned images are divided into training and validation once, by class. To a of them, severity s adds
    `round(a * s / (1 - s))` bias-conflicting ones, in proportion to the classes. Without a shared `test` split, each
    config tests on the bias-conflicting images it did not add.
    """
    import pandas as pd  # slow, and not needed for --help

    share, seed = options.validation_share, options.seed
    if not 0 < share <= 0.5:
        raise BiasEnsembleError(
            f"expected --validation_share above 0 and at most 0.5, found {share}; the default is {VALIDATION_SHARE}"
        )
    aligned, conflicting = files[~files["is_conflicting"]], files[files["is_conflicting"]]
    held_out = apportion(round(share * len(aligned)), np.bincount(aligned["label"]))
    if not held_out.all():
        raise BiasEnsembleError(
            f"expected a --validation_share that holds out an image of every class, found that {share} "
            f"holds out none of {class_names[int(held_out.argmin())]}; use a larger one"
        )
    validation = _drawn(aligned, held_out, random_generator(seed, "validation"))
    parts = {"train": aligned.drop(validation.index), "validation": validation}
    splits: Splits = {}
    severities = dict(parse_severity(text) for text in options.severities)
    for severity, fraction in severities.items():
        rng = random_generator(seed, severity)
        left = conflicting
        for split, part in parts.items():
            counts = apportion(round(len(part) * fraction / (1 - fraction)), np.bincount(part["label"]))
            available = np.bincount(left["label"], minlength=len(class_names))
            if split == "train" and not counts.any():
                raise BiasEnsembleError(
                    f"expected at least one bias-conflicting training image, found none in {severity} of "
                    f"{len(part):,}; use {100 / len(part):.1g}pct or more"
                )
            short = np.flatnonzero(counts > available - (test is None))  # leave one of each class for testing
            if len(short):
                needed = f"more than {counts[short[0]]}" if test is None else f"at least {counts[short[0]]}"
                raise BiasEnsembleError(
                    f"expected {needed} bias-conflicting images of {class_names[short[0]]} for {severity} ({split}), "
                    f"found {available[short[0]]}; use a lower severity"
                )
            added = _drawn(left, counts, rng)
            splits[severity, split] = pd.concat([part, added])
            left = left.drop(added.index)
        if test is None:
            splits[severity, "test"] = left
    if test is not None:
        splits[SHARED, "test"] = test
    return splits, " ".join(severities)


def _drawn(files: "pd.DataFrame", counts: np.ndarray, rng: np.random.Generator) -> "pd.DataFrame":
    return files.iloc[draw(files["label"].to_numpy(), counts, rng)]
