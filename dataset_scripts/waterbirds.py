"""Make Waterbirds: landbirds and waterbirds whose background matches their kind in most training images.

    python dataset_scripts/waterbirds.py --source_dir waterbird_complete95_forest2water2 --output_dir waterbirds

Reads the folder with `metadata.csv` published by Sagawa et al., "Distributionally Robust Neural Networks for Group
Shifts", ICLR 2020 (https://github.com/kohpangwei/group_DRO), and writes a Parquet dataset repository with one config;
`datasets.load_dataset("waterbirds")` opens it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from hf_biasensemble.benchmark_datasets.benchmark_files import (
    Benchmark,
    add_source_options,
    build_from_files,
    check_every_class,
)
from hf_biasensemble.benchmark_datasets.metadata_folder import METADATA, read_metadata
from hf_biasensemble.benchmark_datasets.repository import RepositoryParser, run_script
from hf_biasensemble.benchmark_datasets.severity import Splits

SPLITS = ("train", "validation", "test")  # by the number in the column `split`
WATERBIRDS = Benchmark(
    name="waterbirds",
    folder="waterbird_complete95_forest2water2",
    title="Waterbirds",
    class_names=("landbird", "waterbird"),
    bias_names=("land", "water"),
    summary="Birds (from CUB-200-2011) on backgrounds (from Places), a benchmark for debiasing image classifiers. In "
    "training landbirds are mostly on land and waterbirds mostly on water.",
    notes="""- Licence: unknown; we found none for the published files. They are made from CUB-200-2011 and Places,
  whose terms apply.""",
    tags=("waterbirds",),
)
MAKING = f"""- Files, labels and splits are those of `{METADATA}`: `y` is `label` and `place` is `bias_label`. An image
  is bias-conflicting if the two differ.
- The bytes of the image files were kept.
- The counts above show the strength of the bias in each split; validation and test can differ from training."""


def read(root: Path) -> tuple[Splits, str, str]:
    """Reads train, validation and test from `metadata.csv`, in the order of the rows."""
    numbers = ("0", "1", "2")
    files = read_metadata(root, "img_filename", {"y": numbers[:2], "split": numbers, "place": numbers[:2]})
    files = files.rename(columns={"y": "label", "place": "bias_label"})
    files["is_conflicting"] = files["label"] != files["bias_label"]
    split = files.pop("split")
    splits = {("default", name): files[split == number] for number, name in enumerate(SPLITS)}
    for (_, name), part in splits.items():
        check_every_class(part, WATERBIRDS.class_names, f"{root / METADATA} ({name})")
    return splits, MAKING, ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = RepositoryParser(__file__, __doc__)
    add_source_options(parser)
    return run_script(parser, lambda options: build_from_files(WATERBIRDS, options, read), argv)


if __name__ == "__main__":
    sys.exit(main())
