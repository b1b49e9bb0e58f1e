"""Where the library keeps what it can make anew: beside the cache of `datasets`."""

from pathlib import Path

import datasets

SOURCE_FILE = "source.txt"


def cache_folder() -> Path:
    """`hf_biasensemble` in the cache of `datasets` (`HF_DATASETS_CACHE`)."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_biasensemble"


def pixel_folder() -> Path:
    """Where the pixel stores are."""
    return cache_folder() / "pixels"


def tables_folder(digest: str, source: str) -> Path:
    """A folder for the tables that `datasets` makes of a local folder; notes which one."""
    folder = cache_folder() / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SOURCE_FILE).write_text(source, encoding="utf-8")
    return folder
