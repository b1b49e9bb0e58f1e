"""Make ISIC rulers: skin lesions with a ruler beside them if malignant, in all but a few training photographs.

    python dataset_scripts/isic_rulers.py --source_dir isic_rulers --output_dir isic

Reads a folder of photographs with `metadata.csv` (file_name, label: benign or malignant, ruler: none or ruler) and
writes a Parquet dataset repository with one config per severity; `datasets.load_dataset("isic", "5pct")` opens it.
"""

import sys
from functools import partial

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
    "malignant lesions have a ruler beside them and benign ones do not, in all but a few bias-conflicting images; "
    "configs are named after their fraction. In the test split diagnosis and ruler are independent. Not for medical "
    "use.",
    notes="""- The task is hard: many lesions are misclassified even without a shortcut.
- Licence: unknown. The photographs come from the [ISIC archive](https://www.isic-archive.com), which gives the licence
  of each.""",
    tags=("isic", "skin-lesions", "medical"),
)

main = partial(run_mixture_script, __file__, __doc__, SOURCE)

if __name__ == "__main__":
    sys.exit(main())
