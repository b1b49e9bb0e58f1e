"""Image files in folders -> a dataset repository that keeps their bytes.

The authors of BiasEnsemble publish each dataset as a zip file of folders, in which a file name ends in
`_{label}_{bias label}.{extension}`. `AuthorsFiles` says where what lies, `build_from_authors` makes the repository.
"""

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
from hf_biasensemble.benchmark_datasets.severity import parse_severity
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.sizes import size_in_bytes

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

SEVERITY = "{severity}"  # in a folder of `AuthorsFiles`: one folder per config


Splits = dict[tuple[str, str], "pd.DataFrame"]
"""Files, as of [`image_files`], by (config, split)."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A dataset of image files.

    Attributes:
        name: Its name in `make-dataset`.
        folder: Name of the folder that holds the files; `None`: the same.
        class_names: Names of the labels 0, 1, 2, ...
        bias_names: Names of the bias labels; `None` where there are none.
        title, summary, tags: For the card.
        notes: What the card says of labels, bias and licence: Markdown list items.
    """

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
    """A dataset as the authors of BiasEnsemble publish it.

    Without bias names, only the folder tells aligned from conflicting training images: the second number of their
    file names is not to be trusted.

    Attributes:
        severities: The published ones.
        aligned, conflicting: Folders of the training images. "{severity}" stands for "1pct" and so on.
        validation, test: Folders of these splits; without "{severity}" all configs share the split.
    """

    severities: Sequence[str]
    aligned: str = f"{SEVERITY}/align"
    conflicting: str = f"{SEVERITY}/conflict"
    validation: str = f"{SEVERITY}/valid"
    test: str = "test"


def add_source_options(parser: RepositoryParser) -> None:
    """Add `--source_dir`, `--archive` and `--max_unpacked_size` to the command line of a script."""
    parser.add_argument("--source_dir", type=Path, help="folder with the files")
    parser.add_argument("--archive", type=Path, help="zip file with the files, instead of a folder")
    parser.add_argument(
        "--max_unpacked_size",
        default=MAX_UNPACKED_SIZE,
        metavar="SIZE",
        help=f"refuse an archive that holds more ({MAX_UNPACKED_SIZE})",
    )


def build_from_files(
    dataset: Benchmark, options: Namespace, read: Callable[[Path], tuple[Splits, str, str]], source: str = ""
) -> Path:
    """Write a Parquet dataset repository from image files; returns its folder. The same files give the same bytes.

    Args:
        dataset: What it is.
        options: Those of [`RepositoryParser`] and [`add_source_options`].
        read: Lists the splits in the source's folder; also returns how they were made, for the card, and the other
            options of the command that makes them.
        source: The option `--source` of that command, if there is one.

    Raises:
        BiasEnsembleError: an option or the source is not as described.
    """
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
    """Yield the folder of a dataset, which is the source or lies in it; an archive is unpacked beside the output."""
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
    """All files at any depth below `root / folder` except hidden ones, sorted by path.

    Raises:
        BiasEnsembleError: the folder is missing or empty; says that `expected` should be there.
    """
    place = root / folder
    if not place.is_dir():
        raise BiasEnsembleError(f"expected {expected}, found no folder {folder} in {root}; check the source")
    paths = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if not paths:
        raise BiasEnsembleError(f"expected {expected}, found no files in {place}; fetch or unpack the data again")
    return sorted(paths, key=Path.as_posix)


def image_files(root: Path, paths: Sequence[Path], **columns: Sequence | np.ndarray) -> "pd.DataFrame":
    """A row for each image file: `path`, `file_name` (below `root`, with forward slashes) and what is known of it:
    `label`, `is_conflicting` and, in some datasets, `bias_label`."""
    import pandas as pd  # not needed to show the help of a dataset

    names = [path.relative_to(root).as_posix() for path in paths]
    return pd.DataFrame({"path": paths, "file_name": names, **columns})


def check_every_class(files: "pd.DataFrame", class_names: Sequence[str], where: str) -> None:
    """Raises BiasEnsembleError if there is no image of a class."""
    absent = np.flatnonzero(np.bincount(files["label"], minlength=len(class_names)) == 0)
    if len(absent):
        raise BiasEnsembleError(
            f"expected images of every class in {where}, found none of {class_names[absent[0]]} (label {absent[0]}); "
            "complete the source"
        )


def _read_images(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yield the bytes of every file, after decoding it once; raises BiasEnsembleError if that fails."""
    for path in paths:
        content = path.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as picture:
                picture.draft("RGB", (1, 1))  # the whole JPEG is read all the same, but fewer pixels are made of it
                picture.load()
        except Exception as error:  # Pillow raises unrelated types for broken files
            found = f"none that can be read ({error})" if content else "an empty file"
            raise BiasEnsembleError(
                f"expected an image in {path}, found {found}; replace or remove the file"
            ) from error
        yield content


def _list_authors_split(root: Path, source: AuthorsFiles, split: str, severity: str) -> "pd.DataFrame":
    """List a split of an authors' tree, in the order of the paths; of training images the aligned ones first.

    Raises:
        BiasEnsembleError: a folder is missing or empty, a file name does not end in `_{label}_{bias label}`, is out
            of range or contradicts its folder, or a class has no image.
    """
    parts = ("aligned", "conflicting", "validation", "test")
    folders = {part: getattr(source, part).replace(SEVERITY, severity) for part in parts}
    expected = f"{source.name}/ with {', '.join(f'{folder}/' for folder in folders.values())}"
    paths: list[Path] = []
    rows: list[tuple[int, int, bool]] = []
    for part in parts[:2] if split == "train" else [split]:
        for path in files_below(root, folders[part], expected):
            label, bias_label = _numbers(path, len(source.class_names))
            conflicting = label != bias_label if split != "train" else part == "conflicting"
            if source.bias_names and conflicting != (label != bias_label):
                raise BiasEnsembleError(
                    f"expected only {'different' if conflicting else 'equal'} labels and bias labels in "
                    f"{root / folders[part]}, found {path.name} in it; move the file or correct its name"
                )
            paths.append(path)
            rows.append((label, bias_label, conflicting))
    labels, bias_labels, conflicts = zip(*rows, strict=True)
    files = image_files(root, paths, label=labels, is_conflicting=conflicts)
    if source.bias_names:
        files["bias_label"] = bias_labels
    check_every_class(files, source.class_names, f"{root} ({split} of {severity})")
    return files


def _numbers(path: Path, classes: int) -> tuple[int, int]:
    """Label and bias label of a file name."""
    match = re.fullmatch(r".*_(\d+)_(\d+)\.[A-Za-z]+", path.name)
    if not match:
        raise BiasEnsembleError(
            f"expected a file name that ends in _<label>_<bias label>.<extension>, found {path}; "
            "remove the file or correct its name"
        )
    for number in (int(match[1]), int(match[2])):
        if number >= classes:
            raise BiasEnsembleError(
                f"expected labels 0 to {classes - 1} at the end of a file name, found {number} in {path}; "
                "remove the file or correct its name"
            )
    return int(match[1]), int(match[2])


def build_from_authors(source: AuthorsFiles, options: Namespace) -> Path:
    """Write an authors' dataset, with one config per severity. All names are checked before an image is read."""
    names = list(dict.fromkeys(parse_severity(text)[0] for text in options.severities or source.severities))

    def read(root: Path) -> tuple[Splits, str, str]:
        splits: Splits = {}
        for split in ("train", "validation", "test"):
            folder = source.conflicting if split == "train" else getattr(source, split)
            for name in names:
                key = name if SEVERITY in folder else SHARED, split
                if key not in splits:
                    splits[key] = _list_authors_split(root, source, split, name)
        making = """- Files and splits are those of the authors of BiasEnsemble. Labels and `is_conflicting`
  are what their folders and file names (`..._<label>_<bias label>`) say.
- The bytes of the image files were kept."""
        return splits, making, f"--dataset_config_names {' '.join(names)} "

    return build_from_files(source, options, read, "--source authors ")


def run_authors_script(
    script: str, documentation: str | None, source: AuthorsFiles, argv: Sequence[str] | None = None
) -> int:
    """Run the command line of a script that only knows the authors' files; returns the exit status."""
    parser = RepositoryParser(script, documentation)
    parser.add_argument(
        "--source", choices=("authors",), default="authors", help="where the files come from (authors)"
    )
    add_source_options(parser)
    parser.add_config_names(source.severities)
    return run_script(parser, lambda options: build_from_authors(source, options), argv)
