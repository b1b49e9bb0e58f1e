"""From the settings to decoded splits: what training, testing and checking see of a data set."""

import numpy as np

from hf_biasensemble.arguments import DataArguments, ModelArguments
from hf_biasensemble.data.held_out import at_most, hold_out
from hf_biasensemble.data.loading import ColumnNames, LabelledSplit, load_splits
from hf_biasensemble.data.pixels import ImageSplit, decode_split
from hf_biasensemble.data.split_names import SplitNames
from hf_biasensemble.data.transforms import ImageTransform
from hf_biasensemble.errors import BiasEnsembleError


def load_image_splits(data_args: DataArguments, image_size: int) -> dict[str, ImageSplit]:
    """The data set of the arguments, checked and decoded; missing splits are cut out of the training split.

    Raises:
        `BiasEnsembleError`: If data, columns, labels or images are not as training needs them.
    """
    labelled = load_labelled_splits(data_args)
    splits = decode_splits(labelled, data_args, image_size, data_args.skip_unreadable_images)
    for name, split in splits.items():
        lost = classes_without_images(split)
        if lost:
            raise BiasEnsembleError(
                f"{data_args.dataset_name}, split {name}: expected readable images of every class, found none of "
                f"{', '.join(lost[:10])}; the first unreadable: {split.unreadable[0]}; mend them or remove the class"
            )
    return parts_to_use(splits, data_args)


def parts_to_use(splits: dict[str, ImageSplit], data_args: DataArguments) -> dict[str, ImageSplit]:
    """Cuts out the splits that are missing, then keeps at most so many images as the arguments say."""
    whole = hold_out(splits, data_args.validation_share, data_args.test_share, data_args.split_seed)
    return at_most(whole, data_args.max_train_samples, data_args.max_eval_samples, data_args.split_seed)


def load_training_splits(data_args: DataArguments, image_size: int) -> dict[str, ImageSplit]:
    """[`load_image_splits`] of data that must have a training split."""
    splits = load_image_splits(data_args, image_size)
    if "train" not in splits:
        raise BiasEnsembleError(f"{data_args.dataset_name}: expected a training split, found {', '.join(splits)}")
    return splits


def load_labelled_splits(data_args: DataArguments) -> dict[str, LabelledSplit]:
    """[`load_splits`] with the names of columns and splits in the arguments."""
    columns = ColumnNames(
        data_args.image_column, data_args.label_column, data_args.bias_label_column, data_args.conflicting_column
    )
    names = SplitNames(data_args.train_split, data_args.validation_split, data_args.test_split)
    return load_splits(
        str(data_args.dataset_name),
        data_args.dataset_config_name,
        columns,
        data_args.aligned_bias,
        names,
        data_args.dataset_revision,
    )


def stated_aligned_bias(train: ImageSplit, data_args: DataArguments) -> list[str] | None:
    """What `config.yaml` says of `--aligned_bias`: what the option said, or the majority that was found, so that
    a run from that file measures the same."""
    return train.aligned_bias if train.aligned_by == "majority" else data_args.aligned_bias


def decode_splits(
    labelled: dict[str, LabelledSplit], data_args: DataArguments, image_size: int, skip_unreadable: bool
) -> dict[str, ImageSplit]:
    """[`decode_split`] of each, in memory if all together keep to `pixel_memory_limit`, else mapped from a file."""
    size = sum(len(split.labels) for split in labelled.values()) * 3 * image_size**2
    return {
        name: decode_split(
            split,
            image_size,
            mapped=size > data_args.pixel_memory_bytes(),
            skip_unreadable=skip_unreadable,
            name=f"{data_args.dataset_name}, split {name}",
        )
        for name, split in labelled.items()
    }


def classes_without_images(split: ImageSplit) -> list[str]:
    """The classes of the split all of whose images were left out."""
    lost = np.setdiff1d(split.labels.numpy(), split.labels[split.rows].numpy())
    return [split.class_names[number] for number in lost]


def image_transform(model_args: ModelArguments, augmentation: str = "none") -> ImageTransform:
    """`(pixel / 255 / scale - mean) / std`, written as one mean and one standard deviation of pixel / 255."""
    scale = model_args.image_scale
    return ImageTransform(
        image_mean=tuple(scale * value for value in model_args.image_mean),
        image_std=tuple(scale * value for value in model_args.image_std),
        crop_padding=model_args.crop_padding,
        horizontal_flip=model_args.horizontal_flip,
        augmentation=augmentation,
    )
