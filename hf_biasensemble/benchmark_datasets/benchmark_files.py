"""Datasets of image files, whose bytes the repository keeps. The authors of BiasEnsemble publish theirs as zip files
of folders with files named `..._{label}_{bias label}.{extension}`."""

import io
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hf_biasensemble.benchmark_datasets.archive import MAX_UNPACKED_SIZE, unpacked
from hf_biasensemble.benchmark_datasets.repository import (
    SHARED,
    DatasetRepository,
    RepositoryParser,
    check_source_outside,
    run_script,
    written_aside,
)
from hf_biasensemble.benchmark_datasets.severity import Splits, parse_severity
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.sizes import size_in_bytes

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

SEVERITY = "{severity}"  # in a folder name of `AuthorsFiles`


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A dataset of image files in `folder`, by default `name`, which is its name in `make-dataset`. `bias_names` is
    `None` without bias labels. The rest is for the card; `notes` are Markdown list items about labels, bias and
    licence."""

    name: str
    folder: str | None = None
    class_names: Sequence[str]
    bias_names: Sequence[str] | None
    title: str
    summary: str
    notes: str
    tags: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class AuthorsFiles(Benchmark):
    """A dataset published by the authors of BiasEnsemble, as folders of images.

    In folder names, "{severity}" stands for "1pct" and so on; configs share splits without it. Without bias names, the
    folder alone decides whether a training image is bias-conflicting: the second number in its file name is
    unreliable.
    """

    severities: Sequence[str]
    aligned: str = f"{SEVERITY}/align"
    conflicting: str = f"{SEVERITY}/conflict"
    validation: str = f"{SEVERITY}/valid"
    test: str = "test"


def add_source_options(parser: RepositoryParser) -> None:
    """Adds `--source_dir`, `--archive` and `--max_unpacked_size` to the parser of a script."""
    parser.add_argument("--source_dir", type=Path, help="folder with the files")
    parser.add_argument("--archive", type=Path, help="zip file with the files, instead of a folder")
    text = f"largest unpacked size of an archive ({MAX_UNPACKED_SIZE})"
    parser.add_argument("--max_unpacked_size", default=MAX_UNPACKED_SIZE, metavar="SIZE", help=text)


def build_from_files(
    dataset: Benchmark, options: Namespace, read: Callable[[Path], tuple[Splits, str, str]], source: str = ""
) -> Path:
    """Writes a dataset repository from image files and returns its folder. `read` lists the splits in the source
    folder and returns two texts for the card: how they were made, and further options of the command. `source` is its
    `--source`."""
    name = dataset.folder or dataset.name
    with (
        written_aside(options.output_dir, options.overwrite_output_dir) as folder,
        _source_folder(name, options) as root,
    ):
        splits, making, words = read(root)
        repository = DatasetRepository(folder, dataset.class_names, dataset.bias_names, file_names=True)
        for (config, split), files in splits.items():
            columns = {name: files[name].to_numpy() for name in files if name != "path"}
            repository.write_split(split, _read_images(files["path"]), columns, config)
        origin = f"--archive {name}.zip" if options.archive else f"--source_dir {name}"
        repository.write_card(
            title=dataset.title,
            summary=dataset.summary,
            making=f"{making}\n{dataset.notes}",
            command=f"hf-biasensemble make-dataset {dataset.name} {source}{origin} \\\n"
            f"    {words}--output_dir {dataset.name}_repository",
            tags=dataset.tags,
            license="unknown",
        )
    return options.output_dir


@contextmanager
def _source_folder(name: str, options: Namespace) -> Iterator[Path]:
    """Yields the folder of a dataset, the source itself or a folder in it. Unpacks an archive beside the output."""
    if (options.source_dir is None) == (options.archive is None):
        raise BiasEnsembleError(
            f"expected either --source_dir or --archive, found {'both' if options.archive else 'neither'}; pass one "
            "of them"
        )
    final, given = options.output_dir.resolve(), options.source_dir or options.archive
    check_source_outside(given, final)
    if options.archive is not None:
        most = size_in_bytes(options.max_unpacked_size, "--max_unpacked_size")
        with unpacked(given, final.with_name(f".{final.name}.unpacked"), most) as folder:
            yield folder / name if (folder / name).is_dir() else folder
    else:
        if not given.is_dir():
            raise BiasEnsembleError(f"expected a folder as --source_dir, found no folder {given}; check the path")
        yield given / name if (given / name).is_dir() else given


def files_below(root: Path, folder: str, expected: str) -> list[Path]:
    """All files below `root / folder` except hidden ones, sorted by path; raises if there are none."""
    place = root / folder
    if not place.is_dir():
        raise BiasEnsembleError(f"expected {expected}, found no folder {folder} in {root}; check the source")
    paths = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if not paths:
        raise BiasEnsembleError(f"expected {expected}, found no files in {place}; fetch or unpack the data again")
    return sorted(paths, key=Path.as_posix)


def image_files(root: Path, paths: Sequence[Path], **columns: Sequence | np.ndarray) -> "pd.DataFrame":
    """A table with the columns `path`, `file_name` (relative to `root`, with forward slashes) and those given:
    `label`, `is_conflicting` and perhaps `bias_label`."""
    import pandas as pd  # slow, and not needed for --help

    names = [path.relative_to(root).as_posix() for path in paths]
    return pd.DataFrame({"path": paths, "file_name": names, **columns})


def check_every_class(files: "pd.DataFrame", class_names: Sequence[str], where: str) -> None:
    """Raises `BiasEnsembleError` if a class has no image."""
    absent = np.flatnonzero(np.bincount(files["label"], minlength=len(class_names)) == 0)
    if len(absent):
        raise BiasEnsembleError(
            f"expected images of every class in {where}, found none of {class_names[absent[0]]} (label {absent[0]}); "
            "complete the source"
        )


def _read_images(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yields the bytes of every file after checking that it decodes."""
    for path in paths:
        content = path.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as picture:
                picture.draft("RGB", (1, 1))  # reads the whole JPEG, but decodes fewer pixels
                picture.load()
        except Exception as error:  # PIL raises a dozen types for broken files
            found = f"none that can be read ({error})" if content else "an empty file"
            raise BiasEnsembleError(
                f"expected an image in {path}, found {found}; replace or remove the file"
            ) from error
        yield content


def _list_authors_split(root: Path, source: AuthorsFiles, split: str, severity: str) -> "pd.DataFrame":
    """Lists a split of the authors' files by path, the bias-aligned training images first, and checks their names."""
    parts = ("aligned", "conflicting", "validation", "test")
    folders = {part: getattr(source, part).replace(SEVERITY, severity) for part in parts}
    expected = f"{source.name}/ with {', '.join(f'{folder}/' for folder in folders.values())}"
    rows: list[tuple[Path, int, int, bool]] = []
    for part in parts[:2] if split == "train" else [split]:
        for path in files_below(root, folders[part], expected):
            label, bias_label = _numbers(path, len(source.class_names))
            conflicting = label != bias_label if split != "train" else part == "conflicting"
            if source.bias_names and conflicting != (label != bias_label):
                raise BiasEnsembleError(
                    f"expected only {'different' if conflicting else 'equal'} labels and bias labels in "
                    f"{root / folders[part]}, found {path.name} in it; move the file or correct its name"
                )
            rows.append((path, label, bias_label, conflicting))
    paths, labels, bias_labels, conflicts = zip(*rows, strict=True)
    files = image_files(root, paths, label=labels, is_conflicting=conflicts)
    if source.bias_names:
        files["bias_label"] = bias_labels
    check_every_class(files, source.class_names, f"{root} ({split} of {severity})")
    return files


def _numbers(path: Path, classes: int) -> tuple[int, int]:
    """Label and bias label in a file name."""
    match = re.fullmatch(r".*_(\d+)_(\d+)\.[A-Za-z]+", path.name)
    if not match:
        raise BiasEnsembleError(
            f"expected a file name that ends in _<label>_<bias label>.<extension>, found {path}; "
            "remove the file or correct its name"
        )
    numbers = int(match[1]), int(match[2])
    for number in numbers:
        if number >= classes:
            raise BiasEnsembleError(
                f"expected labels 0 to {classes - 1} at the end of a file name, found {number} in {path}; "
                "remove the file or correct its name"
            )
    return numbers


def build_from_authors(source: AuthorsFiles, options: Namespace) -> Path:
    """Writes a dataset with one config per severity. Checks all file names before it reads an image."""
    names = list(dict.fromkeys(parse_severity(text)[0] for text in options.severities))

    def read(root: Path) -> tuple[Splits, str, str]:
        splits: Splits = {}
        for split in ("train", "validation", "test"):
            folder = source.conflicting if split == "train" else getattr(source, split)
            for name in names:
                key = name if SEVERITY in folder else SHARED, split
                if key not in splits:
                    splits[key] = _list_authors_split(root, source, split, name)
        making = """- Files and splits are those of the authors of BiasEnsemble. Labels and `is_conflicting` come from
  their folders and file names (`..._<label>_<bias label>`).
- The bytes of the image files were kept."""
        return splits, making, f"--dataset_config_names {' '.join(names)} "

    return build_from_files(source, options, read, "--source authors ")


def run_authors_script(
    script: str, documentation: str | None, source: AuthorsFiles, argv: Sequence[str] | None = None
) -> int:
    """Runs the command line of a script for [`AuthorsFiles`] and returns the exit status."""
    parser = RepositoryParser(script, documentation)
    parser.add_argument("--source", choices=["authors"], default="authors", help="where the files come from (authors)")
    add_source_options(parser)
    parser.add_config_names(source.severities)
    return run_script(parser, lambda options: build_from_authors(source, options), argv)
