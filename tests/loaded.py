"""Datasets as the commands open them, with the options that a test names."""

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data import loading
from hf_biasensemble.data.pixels import ImageSplit


def load_splits(name: str, dataset_config_name: str | None = None, **options) -> dict[str, ImageSplit]:
    return loading.load_splits(DataArguments(dataset_name=name, dataset_config_name=dataset_config_name, **options))
