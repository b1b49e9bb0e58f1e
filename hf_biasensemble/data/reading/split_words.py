"""Which names mean a split: `train`, `Training`, `val`, and, with a word more, `seg_train` or `test_images`."""

import re

SPLIT_WORDS = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev", "valset"),
    "test": ("test", "testing", "eval", "evaluation", "testset"),
}
_USE_OF = {word: use for use, words in SPLIT_WORDS.items() for word in words}
_NUMBERS = {"0": "train", "1": "validation", "2": "test"}
_UNLABELLED = {"pred", "predict", "prediction", "unlabeled", "unlabelled", "unsup", "unsupervised"}


def use_of(name: str) -> str | None:
    """`train`, `validation` or `test` for a name that means that split, whatever its case; else `None`."""
    return _USE_OF.get(name.strip().lower())


def use_of_value(value: str) -> str | None:
    """The same for a value in a column of splits, where 0, 1, 2 are train, validation, test as in WILDS."""
    return use_of(value) or _NUMBERS.get(value.strip().removesuffix(".0"))


def with_affix(name: str) -> tuple[str, str] | None:
    """The split that a longer name means and the rest of it: `seg_train` is train and `seg`; `None` if it means none.

    `test-tube` is test and `tube` here: whether a folder is a split, what lies in it must tell.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", name).lower()  # TrainingSet, train2017
    words = [word for word in re.split(r"[^a-z]+", spaced) if word]
    for place in (0, len(words) - 1):
        if len(words) > 1 or words and not name.isalpha():
            use = _USE_OF.get(words[place])
            if use:
                return use, " ".join(words[:place] + words[place + 1 :])
    return None


def is_unlabelled(name: str) -> bool:
    """Whether a name says that these images have no labels: `seg_pred`, `unlabeled`."""
    return bool(_UNLABELLED & set(re.split(r"[^a-z]+", name.lower())))


def is_mark(column: str) -> bool:
    """Whether a column, by its name, marks the images of one split: `is_train`."""
    return use_of(re.sub(r"^(is|in)_", "", column.lower())) is not None


def meant_by(name: str) -> str | None:
    """The split that a name means, alone or with a word more."""
    found = with_affix(name)
    return use_of(name) or (found[0] if found else None)
