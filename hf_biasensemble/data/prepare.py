"""From the settings to decoded splits: what training, testing and checking see of a dataset."""

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
    """The dataset of the arguments, checked and decoded; missing splits are held out from the training split.

    Args:
        data_args (`DataArguments`): Which data.
        geometry (`Geometry` or `int`): What becomes of an image of any size; a number of pixels: squashed to that
            height and width.

    Raises:
        `BiasEnsembleError`: If data, columns, labels or images are not as training needs them.
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
    """Cuts out the splits that are missing, keeps at most so many images as the arguments say, then leaves out and
    relabels training images as marked; the other splits are the same with and without marks."""
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
    """The splits with mean and standard deviation of the vectors to train on, where there are vectors."""
    train = splits.get("train")
    if train is None or not isinstance(train.pixels, Features):
        return splits
    mean, std = mean_and_std(train.pixels.values, train.rows)
    made: dict[int, Features] = {}
    for split in splits.values():  # those cut from train share its vectors
        assert isinstance(split.pixels, Features)
        made.setdefault(id(split.pixels), replace(split.pixels, mean=mean, std=std))
    return {name: replace(split, pixels=made[id(split.pixels)]) for name, split in splits.items()}


def load_training_splits(data_args: DataArguments, geometry: Geometry | int) -> dict[str, ImageSplit]:
    """[`load_image_splits`] of data that must have a training split."""
    splits = load_image_splits(data_args, geometry)
    if "train" not in splits:
        raise BiasEnsembleError(f"{data_args.dataset_name}: expected a training split, found {', '.join(splits)}")
    return splits


def stated_aligned_bias(train: ImageSplit, data_args: DataArguments) -> list[str] | None:
    """What `config.yaml` says of `--aligned_bias`: what the option said, or the majority that was found, so that
    a run from that file measures the same."""
    return train.aligned_bias if train.aligned_by == "majority" else data_args.aligned_bias


def decode_splits(
    labelled: dict[str, ImageSplit], data_args: DataArguments, geometry: Geometry | int, skip_unreadable: bool
) -> dict[str, ImageSplit]:
    """[`decode_split`] of each, in memory if all together keep to `pixel_memory_limit`; else mapped from a file, and
    always so where several processes share it."""
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
    """The classes of the split all of whose images were left out."""
    return replace(split, rows=torch.arange(len(split.labels))).classes_lost(split)


def image_geometry(model_args: ModelArguments) -> Geometry:
    """What becomes of an image of any size before the network of these arguments sees it."""
    return Geometry.of_options(model_args.preprocessing())


def image_transform(
    model_args: ModelArguments, augmentation: str = "none", color_jitter: float = 0.0
) -> ImageTransform:
    """`(pixel / 255 / scale - mean) / std`, written as one mean and one standard deviation of pixel / 255."""
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
    """What becomes of batches of a split while training: [`image_transform`], or that of features in the place of
    pixels."""
    if isinstance(split.pixels, Features):
        return split.pixels.transform()
    return image_transform(model_args, augmentation, color_jitter)


def check_fingerprint(train: ImageSplit, data_args: DataArguments) -> str:
    """The fingerprint of the training data, which must be the one asked for, if any."""
    if data_args.train_fingerprint not in (None, train.fingerprint):
        raise BiasEnsembleError(
            f"--train_fingerprint: expected training data {data_args.train_fingerprint}, found {train.fingerprint} in "
            f"{data_args.dataset_name}; use the data of that run, or leave the option out"
        )
    return train.fingerprint
