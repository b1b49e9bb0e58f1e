"""Make Dogs & Cats: pets whose fur is bright or dark according to the species in all but a few training images.

    python dataset_scripts/dogs_and_cats.py --source_dir dataset/dogs_and_cats --output_dir dogs_and_cats
    python dataset_scripts/dogs_and_cats.py --archive dogs_and_cats.zip --output_dir dogs_and_cats

Reads the files that the authors of BiasEnsemble publish (https://github.com/kakaoenterprise/BiasEnsemble), unpacked or
as zip file, and writes a Parquet dataset repository with one config per severity, to be opened by
`datasets.load_dataset("dogs_and_cats", "1pct")`. The images are those of Kim et al., "Learning Not to Learn: Training
Deep Neural Networks with Biased Data", CVPR 2019 (https://arxiv.org/abs/1812.10352).
"""

import sys
from collections.abc import Sequence

from hf_biasensemble.benchmark_datasets.benchmark_files import AuthorsFiles, run_authors_script

SOURCE = AuthorsFiles(
    name="dogs_and_cats",
    title="Dogs & Cats",
    class_names=("cat", "dog"),
    bias_names=("brightness_0", "brightness_1"),
    severities=("1pct", "5pct"),
    summary="Photographs of dogs and cats, a benchmark for debiasing image classifiers. In training the brightness of "
    "the fur goes with the species in all but a few bias-conflicting images, whose fraction names the config.",
    notes="""- Labels: the numbers are those of the file names. **That 0 is a cat and 1 a dog is assumed**: it was not
  found documented, so look at the contact sheet. For the same reason the brightness is named by number; a bias-aligned
  image has twice the same number.
- Licence: unknown; none was found for the authors' files.""",
    tags=("dogs-and-cats",),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 after a mistake in the input."""
    return run_authors_script(__file__, __doc__, SOURCE, argv)


if __name__ == "__main__":
    sys.exit(main())
