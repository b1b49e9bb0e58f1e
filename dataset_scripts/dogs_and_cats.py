"""Make Dogs & Cats: pets whose fur brightness matches the species in all but a few training images.

    python dataset_scripts/dogs_and_cats.py --source_dir dataset/dogs_and_cats --output_dir dogs_and_cats
    python dataset_scripts/dogs_and_cats.py --archive dogs_and_cats.zip --output_dir dogs_and_cats

Reads the files published with https://github.com/kakaoenterprise/BiasEnsemble, as a folder or zip file, and writes a
Parquet dataset repository with one config per severity; `datasets.load_dataset("dogs_and_cats", "1pct")` opens it. The
images are from Kim et al., "Learning Not to Learn: Training Deep Neural Networks with Biased Data", CVPR 2019
(https://arxiv.org/abs/1812.10352).
"""

import sys
from functools import partial

from hf_biasensemble.benchmark_datasets.benchmark_files import AuthorsFiles, run_authors_script

SOURCE = AuthorsFiles(
    name="dogs_and_cats",
    title="Dogs & Cats",
    class_names=("cat", "dog"),
    bias_names=("brightness_0", "brightness_1"),
    severities=("1pct", "5pct"),
    summary="Photographs of dogs and cats, a benchmark for debiasing image classifiers. In training the brightness of "
    "the fur matches the species in all but a few bias-conflicting images; configs are named after their fraction.",
    notes="""- Labels are the numbers in the file names. **We assume that 0 is a cat and 1 a dog**: we found no
  documentation, so check the contact sheet. Bias labels are named by number for the same reason. Label and bias label
  of a bias-aligned image are equal.
- Licence: unknown; we found none for the authors' files.""",
    tags=("dogs-and-cats",),
)

main = partial(run_authors_script, __file__, __doc__, SOURCE)

if __name__ == "__main__":
    sys.exit(main())
