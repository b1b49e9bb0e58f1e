"""Options of the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from hf_biasensemble.arguments.options import Fraction, NonNegativeInt, Options, PositiveInt, one_of, option, require
from hf_biasensemble.internal.sizes import size_in_bytes

LAYOUTS = ("auto", "folders", "table")
IN_MEMORY = "in memory"
"""Name of a dataset that Python handed in, unless it was given another."""


@dataclass
class DataArguments(Options):
    """Which data, and where in it.

    Attributes:
        in_memory: The data by split where Python handed them in, which no option does; `dataset_name` is then what
            texts call them.
    """

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(None, "Hub id, folder (class folders, tables, Parquet, saved) or table.")
    dataset_config_name: str | None = option(None, "Configuration of the dataset, for instance a severity: 1pct.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of a dataset on the Hub.")
    layout: Annotated[str, one_of(*LAYOUTS)] = option(
        "auto", "What says the classes of a local folder: folders, table, or auto, which refuses what is ambiguous."
    )
    train_split: str = option("train", "Split to train on; training is also found, as Train and set_train are.")
    validation_split: str = option("validation", "Split for validation; valid, val and dev are also found.")
    test_split: str = option("test", "Split for testing; testing, eval and evaluation are also found.")
    split_column: str | None = option(
        None,
        "Column that says the split: names, or 0, 1, 2 for train, validation, test. Default: split, if it is there; "
        "paths: the folders in the paths say it; none: nothing does.",
    )
    image_column: str = option("image", "Column with the images.")
    label_column: str = option("label", "Column with the classes.")
    bias_label_column: str | None = option(None, "Column with the bias attribute; only measures, never trains.")
    conflicting_column: str | None = option(None, "Column that says whether a sample is bias-conflicting.")
    aligned_bias: list[str] | None = option(
        None,
        "Pairs BIAS=CLASS of what is bias-aligned, for instance female=blond male=dark; by default equal names, else "
        "the most frequent bias of each class in train.",
    )

    reading: list[str] | None = option(None, "How the dataset was read, as config.yaml states it; ignored.")
    train_fingerprint: str | None = option(None, "Refuse other training data than with this fingerprint.")

    validation_share: Fraction = option(0.1, "Share of train that becomes validation, if the data have none; 0: none.")
    test_share: Fraction = option(0.1, "Share of train that becomes test, if the data have none; 0: none.")
    validation_fold: str | None = option(
        None,
        "K/N, for instance 1/5: leave the K-th of N parts of the training images out of training, in place of the "
        "validation split.",
    )
    split_seed: NonNegativeInt = option(0, "Seed of these cuts; the same for all runs that are to be compared.")
    max_train_samples: PositiveInt | None = option(None, "Use at most so many training images, drawn by split_seed.")
    max_eval_samples: PositiveInt | None = option(
        None, "Use at most so many images of validation, and as many of test."
    )
    skip_unreadable_images: bool = option(False, "Leave out images that cannot be read, and list them in output_dir.")
    exclude_rows: str | None = option(
        None, "Marks of an audit, as its page exports them (CSV): do not train on those of the kind label_error."
    )
    relabel: str | None = option(None, "Marks of an audit (CSV): train on images with a new_label under that label.")
    pixel_memory_limit: str = option("4GB", "Decoded images of more bytes are kept in a cached file, not in memory.")
    verify_pixels: bool = option(False, "Check all of a cached file of decoded images before it is used.")

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

    def fold(self) -> tuple[int, int] | None:
        """`validation_fold` as two numbers, the first from 0 on."""
        if self.validation_fold is None:
            return None
        words = str(self.validation_fold).split("/")
        number, count = (int(word) if word.isdecimal() else 0 for word in (words if len(words) == 2 else ("", "")))
        valid = count >= 2 and 1 <= number <= count
        require(valid, "--validation_fold", "K/N with K in 1..N and N at least 2, such as 1/5", self.validation_fold)
        return number - 1, count

    def pixel_memory_bytes(self) -> int:
        """`pixel_memory_limit` as a number of bytes."""
        return size_in_bytes(str(self.pixel_memory_limit), "--pixel_memory_limit")
