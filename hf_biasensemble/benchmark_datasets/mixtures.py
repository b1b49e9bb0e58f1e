"""Mix bias-aligned and bias-conflicting images so that a stated fraction of the training images is conflicting."""

from argparse import Namespace
from collections.abc import Sequence

import numpy as np

from hf_biasensemble.benchmark_datasets.benchmark_files import ImageFiles, Splits
from hf_biasensemble.benchmark_datasets.repository import SHARED, RepositoryParser
from hf_biasensemble.benchmark_datasets.severity import apportion, draw, parse_severity, random_generator
from hf_biasensemble.internal.errors import BiasEnsembleError

VALIDATION_SHARE = 0.1
MIXING = """- Bias-conflicting images of the severity s were added to training and validation, in number
  `round(aligned * s / (1 - s))`, so that s is their fraction up to rounding, spread over the classes in proportion."""


def add_mixture_options(parser: RepositoryParser, severities: Sequence[str]) -> None:
    """Add the options of `mix` to the command line of a script."""
    parser.add_config_names(severities, severities)
    parser.add_argument(
        "--validation_share",
        type=float,
        default=VALIDATION_SHARE,
        help=f"fraction held out for validation ({VALIDATION_SHARE})",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (0)")


def mix(
    files: ImageFiles, class_names: Sequence[str], options: Namespace, test: ImageFiles | None = None
) -> tuple[Splits, str]:
    """Mix bias-aligned and bias-conflicting images into train, validation and test for each severity.

    The bias-aligned images are divided into training and validation once, by class. To a of these, a severity s adds
    `round(a * s / (1 - s))` bias-conflicting ones, so that s is their fraction, spread over the classes in proportion.

    Args:
        files: Images for training and validation.
        class_names: Names of the labels.
        options: Those of [`add_mixture_options`].
        test: Test split of all configs. `None` (default): each config tests on the conflicting images it did not add.

    Returns:
        Files by (config, split), no image in two splits of a config, and the names of the configs.

    Raises:
        BiasEnsembleError: a number is out of range, or there are too few images.
    """
    share, seed = options.validation_share, options.seed
    if not 0 < share <= 0.5:
        raise BiasEnsembleError(
            f"expected --validation_share above 0 and at most 0.5, found {share}; the default is {VALIDATION_SHARE}"
        )
    aligned, conflicting = (files.take(np.flatnonzero(files.columns["is_conflicting"] == kind)) for kind in (0, 1))
    labels = aligned.columns["label"]
    held_out = apportion(round(share * len(labels)), np.bincount(labels))
    if not held_out.all():
        raise BiasEnsembleError(
            f"expected a --validation_share that holds out an image of every class, found that {share} "
            f"holds out none of {class_names[int(held_out.argmin())]}; use a larger one"
        )
    rows = draw(labels, held_out, random_generator(seed, "validation"))
    parts = {"train": aligned.without(rows), "validation": aligned.take(rows)}
    splits: Splits = {}
    severities = dict(parse_severity(text) for text in options.severities)
    for severity, fraction in severities.items():
        rng = random_generator(seed, severity)
        left = conflicting
        for split, files in parts.items():
            counts = apportion(
                round(len(files.paths) * fraction / (1 - fraction)), np.bincount(files.columns["label"])
            )
            available = np.bincount(left.columns["label"], minlength=len(class_names))
            if split == "train" and not counts.any():
                raise BiasEnsembleError(
                    f"expected at least one bias-conflicting training image, found none in {severity} of "
                    f"{len(files.paths):,}; use {100 / len(files.paths):.1g}pct or more"
                )
            short = np.flatnonzero(counts > available - (test is None))  # one of each class is left to test with
            if len(short):
                needed = f"more than {counts[short[0]]}" if test is None else f"at least {counts[short[0]]}"
                raise BiasEnsembleError(
                    f"expected {needed} bias-conflicting images of {class_names[short[0]]} for {severity} ({split}), "
                    f"found {available[short[0]]}; use a lower severity"
                )
            rows = draw(left.columns["label"], counts, rng)
            splits[severity, split] = files.joined(left.take(rows))
            left = left.without(rows)
        if test is None:
            splits[severity, "test"] = left
    if test is not None:
        splits[SHARED, "test"] = test
    return splits, " ".join(severities)
