"""Make BFFHQ: faces whose gender goes with the age group in all but a few training images.

    python dataset_scripts/bffhq.py --source_dir dataset/bffhq --output_dir bffhq
    python dataset_scripts/bffhq.py --archive bffhq.zip --dataset_config_names 0.5pct --output_dir bffhq

Reads the files that the authors of BiasEnsemble publish (https://github.com/kakaoenterprise/BiasEnsemble), unpacked or
as zip file, and writes a Parquet dataset repository with one config per severity, to be opened by
`datasets.load_dataset("bffhq", "0.5pct")`. The dataset is that of Kim et al., "BiaSwap: Removing Dataset Bias with
Bias-Tailored Swapping Augmentation", ICCV 2021.
"""

import sys
from collections.abc import Sequence

from hf_biasensemble.benchmark_datasets.benchmark_files import AuthorsFiles, run_authors_script

SOURCE = AuthorsFiles(
    name="bffhq",
    title="BFFHQ",
    class_names=("young", "old"),
    bias_names=("gender_0", "gender_1"),
    severities=("0.5pct", "1pct", "2pct", "5pct"),
    validation="valid",
    summary="Faces of young and old people (from Flickr-Faces-HQ), a benchmark for debiasing image classifiers. In "
    "training the gender goes with the age group in all but a few bias-conflicting images, whose fraction names the "
    "config.",
    notes="""- The test split keeps its bias-aligned and its bias-conflicting half. Published accuracies are those of
  the bias-conflicting half alone: compare them with the accuracy on bias-conflicting images.
- Labels: 0 is young and 1 is old. Which number stands for which gender was not found documented, so the bias labels
  are named by number; a bias-aligned image has twice the same number.
- Licence: unknown; none was found for the authors' files. Flickr-Faces-HQ, where the faces come from, is published
  under CC BY-NC-SA 4.0, and its photographs under licences of their own.""",
    tags=("bffhq", "faces"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 after a mistake in the input."""
    return run_authors_script(__file__, __doc__, SOURCE, argv)


if __name__ == "__main__":
    sys.exit(main())
