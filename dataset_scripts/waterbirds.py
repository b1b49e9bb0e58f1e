"""Make Waterbirds: birds whose background, land or water, goes with their kind in most training images.

    python dataset_scripts/waterbirds.py --source_dir waterbird_complete95_forest2water2 --output_dir waterbirds

Reads the folder with `metadata.csv` that Sagawa et al. publish with "Distributionally Robust Neural Networks for Group
Shifts", ICLR 2020 (https://github.com/kohpangwei/group_DRO), and writes a Parquet dataset repository with one config,
to be opened by `datasets.load_dataset("waterbirds")`.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

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
from hf_biasensemble.benchmark_datasets.repository import (
    DatasetRepository,
    RepositoryParser,
    run_script,
    written_aside,
)
from hf_biasensemble.internal.errors import BiasEnsembleError

FOLDER = "waterbird_complete95_forest2water2"
METADATA = "metadata.csv"
COLUMNS = ("img_filename", "y", "split", "place")
SPLITS = ("train", "validation", "test")  # by their number in the column `split`
CLASS_NAMES = ("landbird", "waterbird")
BIAS_NAMES = ("land", "water")
SUMMARY = (
    "Birds (from CUB-200-2011) on backgrounds (from Places), a benchmark for debiasing image classifiers. In training "
    "landbirds are mostly on land and waterbirds mostly on water."
)
MAKING = f"""- Files, labels and splits are those of `{METADATA}`: `y` is `label` and `place` is `bias_label`. An image
  is bias-conflicting where the two differ.
- The bytes of the image files were kept.
- How strong the bias is in each split, the counts above tell; validation and test need not have that of training.
- Licence: unknown; none was found for the published files. They are made from CUB-200-2011 and Places, whose terms
  apply."""


def list_splits(root: Path) -> dict[str, ImageFiles]:
    """Read `metadata.csv`.

    Args:
        root: Folder that holds it; names of images are relative to it.

    Returns:
        Train, validation and test in the order of the rows, with the columns `label`, `bias_label`, `is_conflicting`
        and `file_name`.

    Raises:
        BiasEnsembleError: the file or a column is missing, a row is out of range, an image is missing, outside the
            folder or named twice, or a class has no image in a split. Names the line.
    """
    metadata = root / METADATA
    if not metadata.is_file():
        raise BiasEnsembleError(
            f"expected {FOLDER}/ with {METADATA} and the images it names, found no {METADATA} in {root}; "
            "check the source"
        )
    rows: dict[str, list[tuple[Path, int, int]]] = {split: [] for split in SPLITS}
    seen: set[Path] = set()
    for number, row in enumerate(_read_rows(metadata), 2):
        where = f"{metadata}, line {number}"
        label, split, place = (_number(row, column, where) for column in ("y", "split", "place"))
        path = root / (row["img_filename"] or "")
        resolved = path.resolve()
        if not path.is_file() or not resolved.is_relative_to(root.resolve()) or resolved in seen:
            raise BiasEnsembleError(
                f"expected an image of its own below the folder for {where}, found "
                f"{'one named twice' if resolved in seen else 'none'} at {row['img_filename']!r}; "
                "complete or correct the source"
            )
        seen.add(resolved)
        rows[SPLITS[split]].append((path, label, place))
    splits = {}
    for name, entries in rows.items():
        paths = [path for path, *_ in entries]
        labels, places = (np.array([entry[i] for entry in entries], dtype=np.int64) for i in (1, 2))
        columns = {"label": labels, "bias_label": places, "is_conflicting": labels != places}
        splits[name] = ImageFiles(paths, columns | {"file_name": file_names(paths, root)})
        check_every_class(splits[name], CLASS_NAMES, f"{metadata} ({name})")
    return splits


def _read_rows(metadata: Path) -> list[dict[str, str]]:
    try:
        with open(metadata, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise BiasEnsembleError(
            f"expected comma-separated text in UTF-8, could not read {metadata} ({error}); fetch it again"
        ) from error
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise BiasEnsembleError(
            f"expected the columns {', '.join(COLUMNS)} in {metadata}, found no {missing[0]}; rename the columns"
        )
    return rows


def _number(row: dict[str, str], column: str, where: str) -> int:
    largest = 2 if column == "split" else 1
    if row[column] not in [str(number) for number in range(largest + 1)]:
        raise BiasEnsembleError(
            f"expected a whole number from 0 to {largest} as {column} in {where}, found {row[column]!r}; "
            "correct or drop the row"
        )
    return int(row[column])


def build(
    output_dir: str | Path,
    *,
    source_dir: str | Path | None = None,
    archive: str | Path | None = None,
    max_unpacked_size: str = MAX_UNPACKED_SIZE,
    overwrite_output_dir: bool = False,
) -> Path:
    """Write Waterbirds as a Parquet dataset repository. The same files give the same bytes.

    Args:
        output_dir: Folder to make.
        source_dir: Folder with `metadata.csv`, or the one that holds it.
        archive: A zip file of that folder, instead.
        max_unpacked_size: Most that the archive may hold (default "20GB").
        overwrite_output_dir: Replace a non-empty `output_dir` (default `False`).

    Returns:
        The folder.

    Raises:
        BiasEnsembleError: an argument or the source is not as described.
    """
    with (
        written_aside(output_dir, overwrite_output_dir) as folder,
        source_folder(FOLDER, source_dir, archive, max_unpacked_size, output_dir) as root,
    ):
        splits = list_splits(root)
        repository = DatasetRepository(folder, CLASS_NAMES, BIAS_NAMES, file_names=True)
        write_splits(repository, {("default", split): files for split, files in splits.items()})
        origin = f"--archive {FOLDER}.zip" if archive else f"--source_dir {FOLDER}"
        repository.write_card(
            title="Waterbirds",
            summary=SUMMARY,
            making=MAKING,
            command=f"hf-biasensemble make-dataset waterbirds {origin} \\\n    --output_dir waterbirds",
            tags=["waterbirds"],
            license="unknown",
        )
    return Path(output_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 after a mistake in the input."""
    parser = RepositoryParser(__file__, __doc__)
    add_source_options(parser)
    return run_script(parser, build, argv)


if __name__ == "__main__":
    sys.exit(main())
