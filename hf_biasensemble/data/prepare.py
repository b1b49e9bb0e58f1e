"""Prepares the splits of a dataset for training, testing and checking, as the arguments say."""

from dataclasses import replace

import torch

from hf_biasensemble.arguments import DataArguments, ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.held_out import at_most, hold_out, with_fold
from hf_biasensemble.data.loading import load_splits
from hf_biasensemble.data.marks import with_marks
from hf_biasensemble.data.pixels import ImageSplit, decode_split
from hf_biasensemble.data.store.features import Features, FeatureTransform, mean_and_std
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import number_started


def load_image_splits(data_args: DataArguments, geometry: Geometry | int) -> dict[str, ImageSplit]:
    """Loads, checks and decodes a dataset, and holds out missing splits from the training split.

    Args:
        data_args (`DataArguments`): The dataset and its options.
        geometry (`Geometry` or `int`): How images are resized; an `int` squashes them to that height and width.

    Returns:
        `dict[str, ImageSplit]`: `train`, `validation` and `test`, as far as they exist.

    Raises:
        `BiasEnsembleError`: If the dataset, a column, a label or an image is missing or unusable.
    """
    labelled = load_splits(data_args)
    splits = decode_splits(labelled, data_args, geometry, data_args.skip_unreadable_images)
    for name, split in splits.items():
        lost = classes_without_images(split)
        if lost:
            raise BiasEnsembleError(
                f"{data_args.dataset_name}, split {name}: expected readable images of every class, found none of "
                f"{', '.join(lost[:10])}; the first unreadable: {split.unreadable[0]}; fix them or remove the class"
            )
    return parts_to_use(splits, data_args)


def parts_to_use(splits: dict[str, ImageSplit], data_args: DataArguments) -> dict[str, ImageSplit]:
    """Holds out missing splits, limits the number of images, and then excludes and relabels training images, which
    leaves other splits unaffected by marks."""
    fold = data_args.fold() if "train" in splits else None
    validation_share = 0.0 if fold else data_args.validation_share
    whole = hold_out(splits, validation_share, data_args.test_share, data_args.split_seed)
    whole = with_fold(whole, *fold, data_args.split_seed) if fold else whole
    parts = at_most(whole, data_args.max_train_samples, data_args.max_eval_samples, data_args.split_seed)
    if "train" in parts and (data_args.exclude_rows or data_args.relabel):
        name = str(data_args.dataset_name)
        parts["train"] = with_marks(parts["train"], data_args.exclude_rows, data_args.relabel, name)
    return _standardised(parts)


def _standardised(splits: dict[str, ImageSplit]) -> dict[str, ImageSplit]:
    """Sets the mean and standard deviation of features to those of the training split."""
    train = splits.get("train")
    if train is None or not isinstance(train.pixels, Features):
        return splits
    mean, std = mean_and_std(train.pixels.values, train.rows)
    made: dict[int, Features] = {}
    for split in splits.values():  # splits held out from train share its features
        assert isinstance(split.pixels, Features)
        made.setdefault(id(split.pixels), replace(split.pixels, mean=mean, std=std))
    return {name: replace(split, pixels=made[id(split.pixels)]) for name, split in splits.items()}


def load_training_splits(data_args: DataArguments, geometry: Geometry | int) -> dict[str, ImageSplit]:
    """[`load_image_splits`] of a dataset that must have a training split."""
    splits = load_image_splits(data_args, geometry)
    if "train" not in splits:
        raise BiasEnsembleError(f"{data_args.dataset_name}: expected a training split, found {', '.join(splits)}")
    return splits


def stated_aligned_bias(train: ImageSplit, data_args: DataArguments) -> list[str] | None:
    """The `aligned_bias` of `config.yaml`: the option, or the majority found, to reproduce the evaluation."""
    return train.aligned_bias if train.aligned_by == "majority" else data_args.aligned_bias


def decode_splits(
    labelled: dict[str, ImageSplit], data_args: DataArguments, geometry: Geometry | int, skip_unreadable: bool
) -> dict[str, ImageSplit]:
    """Decodes splits into memory or, above `pixel_memory_limit` in total or with several processes, memory-mapped."""
    size = sum(len(split.labels) for split in labelled.values()) * 3 * Geometry.of(geometry).stored_size ** 2
    return {
        name: decode_split(
            split,
            geometry,
            mapped=number_started() > 1 or size > data_args.pixel_memory_bytes(),
            skip_unreadable=skip_unreadable,
            name=f"{data_args.dataset_name}, split {name}",
            verify=data_args.verify_pixels,
        )
        for name, split in labelled.items()
    }


def classes_without_images(split: ImageSplit) -> list[str]:
    """The classes of which all images were excluded."""
    return replace(split, rows=torch.arange(len(split.labels))).classes_lost(split)


def image_geometry(model_args: ModelArguments) -> Geometry:
    """How images are resized for the network of these arguments."""
    return Geometry.of_options(model_args.preprocessing())


def image_transform(
    model_args: ModelArguments, augmentation: str = "none", color_jitter: float = 0.0
) -> ImageTransform:
    """Augmentation and `(pixel / 255 / scale - mean) / std`, with the scale folded into mean and std."""
    scale, preprocessing = model_args.image_scale, model_args.preprocessing()
    return ImageTransform(
        image_mean=tuple(scale * value for value in preprocessing["image_mean"]),
        image_std=tuple(scale * value for value in preprocessing["image_std"]),
        image_size=preprocessing["image_size"],
        crop_padding=model_args.crop_padding,
        horizontal_flip=model_args.horizontal_flip,
        augmentation=augmentation,
        color_jitter=color_jitter,
    )


def training_transform(
    split: ImageSplit, model_args: ModelArguments, augmentation: str = "none", color_jitter: float = 0.0
) -> ImageTransform | FeatureTransform:
    """The transform of training batches: [`image_transform`], or that of the features."""
    if isinstance(split.pixels, Features):
        return split.pixels.transform()
    return image_transform(model_args, augmentation, color_jitter)


def check_fingerprint(train: ImageSplit, data_args: DataArguments) -> str:
    """The fingerprint of the training data; refuses another one than `--train_fingerprint`."""
    if data_args.train_fingerprint not in (None, train.fingerprint):
        raise BiasEnsembleError(
            f"--train_fingerprint: expected training data {data_args.train_fingerprint}, found {train.fingerprint} in "
            f"{data_args.dataset_name}; use the data of that run, or remove the option"
        )
    return train.fingerprint
