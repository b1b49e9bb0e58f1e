"""A folder of images with metadata.csv -> checked rows, or a whole repository mixed to stated severities."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_biasensemble.benchmark_datasets.archive import MAX_UNPACKED_SIZE
from hf_biasensemble.benchmark_datasets.benchmark_files import (
    ImageFiles,
    add_source_options,
    check_every_class,
    file_names,
    source_folder,
    write_splits,
)
from hf_biasensemble.benchmark_datasets.mixtures import VALIDATION_SHARE, add_mixture_options, mix
from hf_biasensemble.benchmark_datasets.repository import (
    DatasetRepository,
    RepositoryParser,
    run_script,
    written_aside,
)
from hf_biasensemble.benchmark_datasets.severity import draw, random_generator
from hf_biasensemble.internal.errors import BiasEnsembleError

METADATA = "metadata.csv"


def read_metadata(root: Path, image_column: str, values: Mapping[str, Sequence[str]]) -> ImageFiles:
    """Read `metadata.csv`.

    Args:
        root: Folder that holds it; names of images are relative to it.
        image_column: Column with the names of the images.
        values: The columns to read, each with the values that it may have.

    Returns:
        Files in the order of the rows, with these columns as int64 (the position of each value) and `file_name`.

    Raises:
        BiasEnsembleError: the file or a column is missing, a value is unknown, or an image is missing, outside the
            folder or listed twice. Names the line.
    """
    metadata = root / METADATA
    if not metadata.is_file():
        raise BiasEnsembleError(
            f"expected {METADATA} and the images it names, found no {METADATA} in {root}; check the source"
        )
    try:
        with open(metadata, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows, found = list(reader), reader.fieldnames or ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise BiasEnsembleError(
            f"expected comma-separated text in UTF-8, could not read {metadata} ({error}); fetch it again"
        ) from error
    expected = [image_column, *values]
    missing = [column for column in expected if column not in found]
    if missing:
        raise BiasEnsembleError(
            f"expected the columns {', '.join(expected)} in {metadata}, found no {missing[0]}; rename the columns"
        )
    columns: dict[str, list[int]] = {name: [] for name in values}
    paths: list[Path] = []
    seen = set()
    for line, row in enumerate(rows, 2):
        for name, known in values.items():
            if row[name] not in known:
                raise BiasEnsembleError(
                    f"expected {', '.join(known)} as {name} in {metadata}, line {line}, found {row[name]!r}; "
                    "correct or drop the row"
                )
            columns[name].append(known.index(row[name]))
        paths.append(root / row[image_column])
        resolved = paths[-1].resolve()
        if not resolved.is_file() or not resolved.is_relative_to(root.resolve()) or resolved in seen:
            raise BiasEnsembleError(
                f"expected an image of its own below the folder for {metadata}, line {line}, found "
                f"{'one listed twice' if resolved in seen else 'none'} at {row[image_column]!r}; "
                "complete or correct the source"
            )
        seen.add(resolved)
    numbers = {name: np.array(column, dtype=np.int64) for name, column in columns.items()}
    return ImageFiles(paths, numbers | {"file_name": file_names(paths, root)})


@dataclass(frozen=True)
class MetadataFolder:
    """A dataset given as images with `metadata.csv` (columns `file_name`, `label` and one for the bias).

    Attributes:
        name: Name of the dataset and of its folder.
        title, summary, notes, tags: For the card; `notes` are Markdown list items on labels, bias and licence.
        class_names: Values of `label`.
        bias_column: Column of the bias.
        bias_names: Its values, in the order of the classes that they go with.
        test_per_cell: Test images of each class with each bias.
        severities: Configs made by default.
    """

    name: str
    title: str
    summary: str
    notes: str
    tags: Sequence[str]
    class_names: Sequence[str]
    bias_column: str
    bias_names: Sequence[str]
    test_per_cell: int
    severities: Sequence[str]


def build_mixtures(
    source: MetadataFolder,
    output_dir: str | Path,
    *,
    source_dir: str | Path | None = None,
    archive: str | Path | None = None,
    max_unpacked_size: str = MAX_UNPACKED_SIZE,
    severities: Sequence[str] | None = None,
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
    test_per_cell: int | None = None,
    overwrite_output_dir: bool = False,
) -> Path:
    """Write a dataset with one config per severity and a balanced test split that all configs share.

    The same arguments and files give the same bytes.

    Args:
        source: Which dataset.
        output_dir: Folder to make.
        source_dir: Folder with `metadata.csv`, or the one that holds it.
        archive: A zip file of that folder, instead.
        max_unpacked_size: Most that the archive may hold (default "20GB").
        severities: Configs to write, each "<number>pct"; the first is the default config. `None` (default): the usual.
        seed: Seed of all draws, 0 or more (default 0).
        validation_share: Fraction of the bias-aligned images to hold out for validation (default 0.1).
        test_per_cell: Test images of each class with each bias. `None` (default): the number usual for the dataset.
        overwrite_output_dir: Replace a non-empty `output_dir` (default `False`).

    Returns:
        The folder.

    Raises:
        BiasEnsembleError: an argument or the source is not as described.
    """
    per_cell = source.test_per_cell if test_per_cell is None else test_per_cell
    classes, biases = source.class_names, source.bias_names
    with (
        written_aside(output_dir, overwrite_output_dir) as folder,
        source_folder(source.name, source_dir, archive, max_unpacked_size, output_dir) as root,
    ):
        files = read_metadata(root, "file_name", {"label": classes, source.bias_column: biases})
        labels, bias_labels = files.columns["label"], files.columns.pop(source.bias_column)
        files.columns.update(bias_label=bias_labels, is_conflicting=labels != bias_labels)
        check_every_class(files, classes, str(root / METADATA))
        cells = labels * len(biases) + bias_labels
        sizes = np.bincount(cells, minlength=len(classes) * len(biases))
        if not 0 < per_cell < sizes.min():
            label, bias = divmod(int(sizes.argmin()), len(biases))
            raise BiasEnsembleError(
                f"expected --test_per_cell above 0 and below the {sizes.min()} images of {classes[label]} with "
                f"{source.bias_column} {biases[bias]}, found {per_cell}; use another number"
            )
        rows = draw(cells, np.full(len(sizes), per_cell), random_generator(seed, "test"))
        rest, conflicting = files.without(rows), np.delete(labels != bias_labels, rows)
        splits = mix(
            rest.take(np.flatnonzero(~conflicting)),
            rest.take(np.flatnonzero(conflicting)),
            classes,
            severities or source.severities,
            validation_share,
            seed,
            files.take(rows),
        )
        repository = DatasetRepository(folder, classes, biases, file_names=True)
        write_splits(repository, splits)
        configs = list(dict.fromkeys(config for config, split in splits if split == "train"))
        origin = f"--archive {source.name}.zip" if archive else f"--source_dir {source.name}"
        repository.write_card(
            title=source.title,
            summary=source.summary,
            making=f"""- Images and labels are those of `{METADATA}`: {len(labels):,} images. An image is
  bias-conflicting where `{source.bias_column}` is not the one that goes with its class.
- Test: {per_cell} images of each class with each bias label, the same for all configs.
- Validation: {100 * validation_share:g}% of the remaining bias-aligned images, by class, the same for all configs.
- Bias-conflicting images of the severity s were added to training and validation, in number
  `round(aligned * s / (1 - s))`, so that s is their fraction up to rounding, spread over the classes in proportion.
- Images were drawn with seed {seed}; their bytes were kept.
{source.notes}""",
            command=f"hf-biasensemble make-dataset {source.name} {origin} \\\n"
            f"    --dataset_config_names {' '.join(configs)} --test_per_cell {per_cell} \\\n"
            f"    --validation_share {validation_share} --seed {seed} --output_dir {source.name}_repository",
            tags=source.tags,
            license="unknown",
        )
    return Path(output_dir)


def run_mixture_script(
    script: str, documentation: str | None, source: MetadataFolder, argv: Sequence[str] | None = None
) -> int:
    """Run the command line of a script that mixes a folder with metadata; returns the exit status.

    Args:
        script: File of the script.
        documentation: Its docstring.
        source: Which dataset.
        argv: The words of the command line; `None` (default) stands for those of this process.
    """
    parser = RepositoryParser(script, documentation)
    add_source_options(parser)
    add_mixture_options(parser, source.severities)
    text = f"test images of each class with each bias ({source.test_per_cell})"
    parser.add_argument("--test_per_cell", type=int, metavar="N", help=text)

    def build(**options: Any) -> Path:
        return build_mixtures(source, **options)

    return run_script(parser, build, argv)
