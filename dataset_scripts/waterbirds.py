"""Make Waterbirds: birds whose background, land or water, goes with their kind in most training images.

    python dataset_scripts/waterbirds.py --source_dir waterbird_complete95_forest2water2 --output_dir waterbirds

Reads the folder with `metadata.csv` that Sagawa et al. publish with "Distributionally Robust Neural Networks for Group
Shifts", ICLR 2020 (https://github.com/kohpangwei/group_DRO), and writes a Parquet dataset repository with one config,
to be opened by `datasets.load_dataset("waterbirds")`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_biasensemble.benchmark_datasets.archive import MAX_UNPACKED_SIZE
from hf_biasensemble.benchmark_datasets.benchmark_files import (
    ImageFiles,
    add_source_options,
    check_every_class,
    source_folder,
    write_splits,
)
from hf_biasensemble.benchmark_datasets.metadata_folder import METADATA, read_metadata
from hf_biasensemble.benchmark_datasets.repository import (
    DatasetRepository,
    RepositoryParser,
    run_script,
    written_aside,
)

FOLDER = "waterbird_complete95_forest2water2"
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
    """Read `metadata.csv`: train, validation and test in the order of the rows, with all columns of a repository.

    Raises:
        BiasEnsembleError: the file, a column or an image is missing, a value is unknown, or a class has no image in a
            split.
    """
    numbers = ("0", "1", "2")
    files = read_metadata(root, "img_filename", {"y": numbers[:2], "split": numbers, "place": numbers[:2]})
    labels, split, places = (files.columns.pop(name) for name in ("y", "split", "place"))
    files.columns.update(label=labels, bias_label=places, is_conflicting=labels != places)
    splits = {name: files.take(np.flatnonzero(split == number)) for number, name in enumerate(SPLITS)}
    for name, part in splits.items():
        check_every_class(part, CLASS_NAMES, f"{root / METADATA} ({name})")
    return splits


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
