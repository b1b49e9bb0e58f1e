"""Make BFFHQ: faces whose gender matches the age group in all but a few training images.

    python dataset_scripts/bffhq.py --source_dir dataset/bffhq --output_dir bffhq
    python dataset_scripts/bffhq.py --archive bffhq.zip --dataset_config_names 0.5pct --output_dir bffhq

Reads the files published with https://github.com/kakaoenterprise/BiasEnsemble, as a folder or zip file, and writes a
Parquet dataset repository with one config per severity; `datasets.load_dataset("bffhq", "0.5pct")` opens it. The
dataset is from Kim et al., "BiaSwap: Removing Dataset Bias with Bias-Tailored Swapping Augmentation", ICCV 2021.
"""

import sys
from functools import partial

from hf_biasensemble.benchmark_datasets.benchmark_files import AuthorsFiles, run_authors_script

SOURCE = AuthorsFiles(
    name="bffhq",
    title="BFFHQ",
    class_names=("young", "old"),
    bias_names=("gender_0", "gender_1"),
    severities=("0.5pct", "1pct", "2pct", "5pct"),
    validation="valid",
    summary="Faces of young and old people (from Flickr-Faces-HQ), a benchmark for debiasing image classifiers. In "
    "training the gender matches the age group in all but a few bias-conflicting images; configs are named after "
    "their fraction.",
    notes="""- The test split has a bias-aligned and a bias-conflicting half. Published accuracies are those of the
  bias-conflicting half: compare them with the accuracy on bias-conflicting images.
- Labels: 0 is young and 1 is old. We found no documentation of which gender is 0, so bias labels are named by number.
  Label and bias label of a bias-aligned image are equal.
- Licence: unknown; we found none for the authors' files. The faces come from Flickr-Faces-HQ, which is published under
  CC BY-NC-SA 4.0; each photograph has its own licence.""",
    tags=("bffhq", "faces"),
)

main = partial(run_authors_script, __file__, __doc__, SOURCE)

if __name__ == "__main__":
    sys.exit(main())
