"""Make ISIC rulers: malignant skin lesions lie beside a ruler in all but a few training photographs.

    python dataset_scripts/isic_rulers.py --source_dir isic_rulers --output_dir isic

Reads a folder of photographs with `metadata.csv` (file_name, label: benign or malignant, ruler: none or ruler) and
writes a Parquet dataset repository with one config per severity, to be opened by
`datasets.load_dataset("isic", "5pct")`.
"""

import sys
from collections.abc import Sequence

from hf_biasensemble.benchmark_datasets.metadata_folder import MetadataFolder, run_mixture_script

SOURCE = MetadataFolder(
    name="isic_rulers",
    title="ISIC rulers",
    class_names=("benign", "malignant"),
    bias_column="ruler",
    bias_names=("none", "ruler"),
    test_per_cell=100,
    severities=("5pct",),
    summary="Photographs of skin lesions, a benchmark for debiasing image classifiers. In training and validation "
    "malignant lesions lie beside a ruler and benign ones do not in all but a few bias-conflicting images, whose "
    "fraction names the config. In the test split diagnosis and ruler are independent. Not for medical use.",
    notes="""- The class is hard: many lesions are misclassified even without a shortcut.
- Licence: unknown. The photographs come from the [ISIC archive](https://www.isic-archive.com), which states the
  licence of each.""",
    tags=("isic", "skin-lesions", "medical"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 after a mistake in the input."""
    return run_mixture_script(__file__, __doc__, SOURCE, argv)


if __name__ == "__main__":
    sys.exit(main())
