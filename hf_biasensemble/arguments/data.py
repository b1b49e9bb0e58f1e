"""Options of the data."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from hf_biasensemble.arguments.options import Fraction, NonNegativeInt, Options, PositiveInt, one_of, option
from hf_biasensemble.internal.errors import require
from hf_biasensemble.internal.sizes import size_in_bytes

LAYOUTS = ("auto", "folders", "table")
IN_MEMORY = "in memory"
"""Default name of a dataset passed from Python."""


@dataclass
class DataArguments(Options):
    """Which data to use.

    Attributes:
        in_memory: Splits passed from Python by name; `dataset_name` is then only a label.
    """

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(
        None, "Hub id, local folder (class folders, tables, Parquet, or saved by datasets) or table file."
    )
    dataset_config_name: str | None = option(None, "Configuration of the dataset, such as a severity: 1pct.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of a dataset on the Hub.")
    layout: Annotated[str, one_of(*LAYOUTS)] = option(
        "auto",
        "Where the classes of a local folder come from: folders, table, or auto, which refuses ambiguous folders.",
    )
    train_split: str = option(
        "train", "Split to train on; variants such as training, Train and set_train are found too."
    )
    validation_split: str = option("validation", "Split for validation; valid, val and dev are found too.")
    test_split: str = option("test", "Split for testing; testing, eval and evaluation are found too.")
    split_column: str | None = option(
        None,
        "Column with the split: names, or 0, 1, 2 for train, validation, test. By default split, if there is one; "
        "paths: take it from folders in the paths; none: ignore it.",
    )
    image_column: str = option("image", "Column with the images.")
    feature_column: str | None = option(
        None, "Column of vectors (lists of numbers) to train on instead of images; audits still show images and texts."
    )
    label_column: str = option("label", "Column with the classes.")
    bias_label_column: str | None = option(None, "Column with the bias attribute; used for evaluation only.")
    conflicting_column: str | None = option(None, "Column that marks bias-conflicting images.")
    aligned_bias: list[str] | None = option(
        None,
        "Bias-aligned BIAS=CLASS pairs, such as female=blond male=dark; by default pairs of equal names, else the "
        "most frequent bias of each class in train.",
    )

    reading: list[str] | None = option(None, "How the dataset was read, as recorded in config.yaml; ignored.")
    train_fingerprint: str | None = option(None, "Refuse training data with another fingerprint.")

    validation_share: Fraction = option(
        0.1, "Fraction of train held out when there is no validation split; 0 disables it."
    )
    test_share: Fraction = option(0.1, "Fraction of train held out when there is no test split; 0 disables it.")
    validation_fold: str | None = option(
        None, "K/N, such as 1/5: hold out fold K of N of the training images instead of the validation split."
    )
    split_seed: NonNegativeInt = option(0, "Seed for holding out images; use the same for all runs you compare.")
    max_train_samples: PositiveInt | None = option(None, "Use at most N training images, drawn with split_seed.")
    max_eval_samples: PositiveInt | None = option(None, "Use at most N validation and N test images.")
    skip_unreadable_images: bool = option(False, "Skip images that cannot be read, and list them in output_dir.")
    exclude_rows: str | None = option(
        None, "Marks exported from an audit page (CSV): drop training images marked label_error."
    )
    relabel: str | None = option(
        None, "Marks exported from an audit page (CSV): give training images their new_label."
    )
    pixel_memory_limit: str = option("4GB", "Keep decoded images above this size in a cached file instead of memory.")
    verify_pixels: bool = option(False, "Verify cached decoded images and features before using them.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_memory: Mapping[str, Any] | None = None
        require(bool(self.dataset_name), "--dataset_name", "a Hub id or a local folder", self.dataset_name)
        told_twice = self.aligned_bias and self.conflicting_column
        require(not told_twice, "--aligned_bias", "it without --conflicting_column", self.conflicting_column)
        both = self.validation_share + self.test_share
        require(both < 1, "--validation_share and --test_share", "below 1 together", both)
        self.fold()
        self.pixel_memory_bytes()
        for name in ("skip_unreadable_images", "verify_pixels"):
            decodes = not self.feature_column or not getattr(self, name)
            require(decodes, f"--{name}", "false with --feature_column", True)

    def fold(self) -> tuple[int, int] | None:
        """`validation_fold` as index (from 0) and count."""
        if self.validation_fold is None:
            return None
        found = re.fullmatch(r"(\d+)/(\d+)", str(self.validation_fold))
        number, count = map(int, found.groups()) if found else (0, 0)
        valid = count >= 2 and 1 <= number <= count
        require(valid, "--validation_fold", "K/N with K in 1..N and N at least 2, such as 1/5", self.validation_fold)
        return number - 1, count

    def pixel_memory_bytes(self) -> int:
        """`pixel_memory_limit` in bytes."""
        return size_in_bytes(str(self.pixel_memory_limit), "--pixel_memory_limit")
