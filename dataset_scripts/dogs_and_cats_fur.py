"""Make Dogs & Cats by fur: cats are bright and dogs dark in all but a few training photographs.

    python dataset_scripts/dogs_and_cats_fur.py --source_dir dogs_and_cats_fur --output_dir fur

Reads a folder of photographs with `metadata.csv` (file_name, label: cat or dog, fur: bright or dark) and writes a
Parquet dataset repository with one config per severity; `datasets.load_dataset("fur", "1pct")` opens it.
"""

import sys
from functools import partial

from hf_biasensemble.benchmark_datasets.metadata_folder import MetadataFolder, run_mixture_script

SOURCE = MetadataFolder(
    name="dogs_and_cats_fur",
    title="Dogs & Cats by fur",
    class_names=("cat", "dog"),
    bias_column="fur",
    bias_names=("bright", "dark"),
    test_per_cell=200,
    severities=("1pct", "5pct"),
    summary="Photographs of dogs and cats, a benchmark for debiasing image classifiers. In training and validation "
    "cats have bright fur and dogs have dark fur in all but a few bias-conflicting images; configs are named after "
    "their fraction. In the test split species and fur are independent.",
    notes="""- Fur labels come from a brightness rule, which is wrong for some images.
- Licence: unknown. The file names are those of Kaggle's Dogs vs. Cats.""",
    tags=("dogs-and-cats",),
)

main = partial(run_mixture_script, __file__, __doc__, SOURCE)

if __name__ == "__main__":
    sys.exit(main())
