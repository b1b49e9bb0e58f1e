"""What the columns and the splits of the dataset at hand are called."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns in the dataset at hand.

    `bias_label`, `is_conflicting` and `split` may be absent from the data unless they were named on purpose.
    """

    image: str = "image"
    label: str = "label"
    bias_label: str | None = None
    is_conflicting: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class SplitNames:
    """Names of the splits in the dataset at hand. A usual name also stands for its other forms, such as `val`."""

    train: str = "train"
    validation: str = "validation"
    test: str = "test"
