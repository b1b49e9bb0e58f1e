"""Image files in folders -> a dataset repository that keeps their bytes.

The authors of BiasEnsemble publish each dataset as a zip file of folders, in which a file name ends in
`_{label}_{bias label}.{extension}`. `AuthorsFiles` says where what lies, `build_from_authors` makes the repository.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

SEVERITY = "{severity}"  # in a folder of `AuthorsFiles`: one folder per config


@dataclass(frozen=True)
class ImageFiles:
    """Image files of one split: N `paths`, and `columns` of shape (N,), among them `label` and `is_conflicting`."""

    paths: list[Path]
    columns: dict[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "ImageFiles":
        return ImageFiles([self.paths[row] for row in rows], {name: c[rows] for name, c in self.columns.items()})

    def without(self, rows: np.ndarray) -> "ImageFiles":
        return self.take(np.setdiff1d(np.arange(len(self.paths)), rows))

    def joined(self, other: "ImageFiles") -> "ImageFiles":
        columns = {name: np.concatenate([column, other.columns[name]]) for name, column in self.columns.items()}
        return ImageFiles(self.paths + other.paths, columns)


@dataclass(frozen=True)
class AuthorsFiles:
    """One dataset as its authors publish it.

    Attributes:
        name: Folder at the top of the zip file, such as "bffhq".
        class_names: Names of the labels 0, 1, 2, ...
        bias_names: Names of the bias labels, one per class, or `None` where the second number of a file name is not
            to be trusted: then only the folder tells aligned from conflicting in the training split.
        severities: The published ones.
        aligned, conflicting: Folders of the training images, below `name`. "{severity}" stands for "1pct" and so on.
        validation, test: Folders of these splits; without "{severity}" all configs share the split.
        title, summary, tags: For the card.
        notes: What the card says of labels, bias and licence: Markdown list items.
    """

    name: str
    class_names: Sequence[str]
    bias_names: Sequence[str] | None
    severities: Sequence[str]
    title: str
    summary: str
    notes: str
    tags: Sequence[str]
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


@contextmanager
def source_folder(
    name: str,
    source_dir: str | Path | None,
    archive: str | Path | None,
    max_unpacked_size: str,
    output_dir: str | Path,
) -> Iterator[Path]:
    """Yield the folder of a dataset, unpacked if need be. To be entered after `written_aside`, which locks the place.

    Args:
        name: Name of the folder; it may be the source itself or lie in it.
        source_dir: Folder with the files, or `None`.
        archive: Zip file with the files, or `None`.
        max_unpacked_size: Most that the archive may hold, such as "20GB".
        output_dir: Folder to make. An archive is unpacked beside it, and what came out is removed again.

    Raises:
        BiasEnsembleError: not exactly one source was given, it is not there or would be overwritten, or the archive is
            refused.
    """
    if (source_dir is None) == (archive is None):
        raise BiasEnsembleError(
            f"expected either --source_dir or --archive, found {'both' if archive else 'neither'}; pass one of them"
        )
    final, given = Path(output_dir).resolve(), Path(source_dir or archive or "")
    check_source_outside(given, output_dir)
    if archive is not None:
        most = size_in_bytes(max_unpacked_size, "--max_unpacked_size")
        with unpacked(archive, final.with_name(f".{final.name}.unpacked"), most) as folder:
            yield folder / name if (folder / name).is_dir() else folder
    else:
        if not given.is_dir():
            raise BiasEnsembleError(f"expected a folder as --source_dir, found no folder {given}; check the path")
        yield given / name if (given / name).is_dir() else given


def files_below(root: Path, folder: str, expected: str) -> list[Path]:
    """All files at any depth below `root / folder`, but hidden ones, sorted by path.

    Args:
        root: Folder of the dataset.
        folder: Folder below it.
        expected: The tree that should be there, for the error.

    Raises:
        BiasEnsembleError: the folder is missing or empty.
    """
    place = root / folder
    if not place.is_dir():
        raise BiasEnsembleError(f"expected {expected}, found no folder {folder} in {root}; check the source")
    paths = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if not paths:
        raise BiasEnsembleError(f"expected {expected}, found no files in {place}; fetch or unpack the data again")
    return sorted(paths, key=Path.as_posix)


def file_names(paths: Sequence[Path], root: Path) -> np.ndarray:
    """Paths below `root` with forward slashes, as a column."""
    return np.array([path.relative_to(root).as_posix() for path in paths], dtype=object)


def check_every_class(files: ImageFiles, class_names: Sequence[str], where: str) -> None:
    """Raises BiasEnsembleError if there is no image of a class."""
    absent = np.flatnonzero(np.bincount(files.columns["label"], minlength=len(class_names)) == 0)
    if len(absent):
        raise BiasEnsembleError(
            f"expected images of every class in {where}, found none of {class_names[absent[0]]} (label {absent[0]}); "
            "complete the source"
        )


def read_images(files: ImageFiles) -> Iterator[bytes]:
    """Yield the bytes of every file, after decoding it once.

    Raises:
        BiasEnsembleError: a file is no image that can be decoded to its end; names it.
    """
    for path in files.paths:
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


def list_authors_split(root: Path, source: AuthorsFiles, split: str, severity: str) -> ImageFiles:
    """List a split of an authors' tree, in the order of the paths; of training images the aligned ones first.

    Args:
        root: Folder of the dataset.
        source: What it is.
        split: "train", "validation" or "test".
        severity: Config, such as "1pct".

    Returns:
        Files with the columns `label`, `is_conflicting`, `file_name` and, if the source has bias names, `bias_label`.

    Raises:
        BiasEnsembleError: a folder is missing or empty, a file name does not end in `_{label}_{bias label}`, is out
            of range or contradicts its folder, or a class has no image.
    """
    paths: list[Path] = []
    rows: list[tuple[int, int, bool]] = []
    folders = {"train": (source.aligned, source.conflicting), "validation": (source.validation,)}
    for template in folders.get(split, (source.test,)):
        folder = template.replace(SEVERITY, severity)
        for path in files_below(root, folder, _expected_tree(source, severity)):
            label, bias_label = _numbers(path, len(source.class_names))
            conflicting = label != bias_label
            if split == "train":
                in_conflicting = template == source.conflicting
                if source.bias_names and conflicting != in_conflicting:
                    raise BiasEnsembleError(
                        f"expected only {'different' if in_conflicting else 'equal'} labels and bias labels in "
                        f"{root / folder}, found {path.name} in it; move the file or correct its name"
                    )
                conflicting = in_conflicting
            paths.append(path)
            rows.append((label, bias_label, conflicting))
    labels, bias_labels, conflicts = np.array(rows, dtype=np.int64).T
    columns = {"label": labels} | ({"bias_label": bias_labels} if source.bias_names else {})
    columns |= {"is_conflicting": conflicts.astype(bool), "file_name": file_names(paths, root)}
    files = ImageFiles(paths, columns)
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


def _expected_tree(source: AuthorsFiles, severity: str) -> str:
    folders = (source.aligned, source.conflicting, source.validation, source.test)
    return f"{source.name}/ with " + ", ".join(f"{f.replace(SEVERITY, severity)}/" for f in folders)


def build_from_authors(
    source: AuthorsFiles,
    output_dir: str | Path,
    source_dir: str | Path | None = None,
    archive: str | Path | None = None,
    max_unpacked_size: str = MAX_UNPACKED_SIZE,
    severities: Sequence[str] | None = None,
    overwrite_output_dir: bool = False,
) -> Path:
    """Write an authors' dataset as a Parquet dataset repository, with one config per severity.

    All names are checked before the first image is read. The same files give the same bytes.

    Args:
        source: Which dataset.
        output_dir: Folder to make.
        source_dir: The unpacked folder, or the one that holds it.
        archive: The zip file, instead of a folder.
        max_unpacked_size: Most that the archive may hold (default "20GB").
        severities: Configs to write; the first is the default config. `None` (default) stands for the published ones.
        overwrite_output_dir: Replace a non-empty `output_dir` (default `False`).

    Returns:
        The folder.

    Raises:
        BiasEnsembleError: an argument or the source is not as described.
    """
    names = list(dict.fromkeys(parse_severity(text)[0] for text in severities or source.severities))
    with (
        written_aside(output_dir, overwrite_output_dir) as folder,
        source_folder(source.name, source_dir, archive, max_unpacked_size, output_dir) as root,
    ):
        splits: dict[tuple[str, str], ImageFiles] = {}
        for split, template in (
            ("train", source.conflicting),
            ("validation", source.validation),
            ("test", source.test),
        ):
            for name in names:
                config = name if SEVERITY in template else SHARED
                if (config, split) not in splits:
                    splits[config, split] = list_authors_split(root, source, split, name)
        repository = DatasetRepository(folder, source.class_names, source.bias_names, file_names=True)
        write_splits(repository, splits)
        origin = f"--archive {source.name}.zip" if archive else f"--source_dir {source.name}"
        repository.write_card(
            title=source.title,
            summary=source.summary,
            making=f"""- Files and splits are those of the authors of BiasEnsemble. Labels and `is_conflicting`
  are what their folders and file names (`..._<label>_<bias label>`) say.
- The bytes of the image files were kept.
{source.notes}""",
            command=f"hf-biasensemble make-dataset {source.name} --source authors {origin} \\\n"
            f"    --dataset_config_names {' '.join(names)} --output_dir {source.name}_repository",
            tags=source.tags,
            license="unknown",
        )
    return Path(output_dir)


def write_splits(repository: DatasetRepository, splits: Mapping[tuple[str, str], ImageFiles]) -> None:
    """Write files as splits, which are named (config, split)."""
    for (config, split), files in splits.items():
        repository.write_split(split, read_images(files), files.columns, config)


def run_authors_script(
    script: str, documentation: str | None, source: AuthorsFiles, argv: Sequence[str] | None = None
) -> int:
    """Run the command line of a script that knows the authors' files alone; returns the exit status.

    Args:
        script: File of the script.
        documentation: Its docstring.
        source: Which dataset.
        argv: The words of the command line; `None` (default) stands for those of this process.
    """
    parser = RepositoryParser(script, documentation)
    parser.add_argument(
        "--source", choices=("authors",), default="authors", help="where the files come from (authors)"
    )
    add_source_options(parser)
    parser.add_config_names(source.severities)

    def build(**options: Any) -> Path:
        del options["source"]  # there is but one
        return build_from_authors(source, **options)

    return run_script(parser, build, argv)
