"""Make BAR (Biased Action Recognition): actions in their usual place in all but a few training photographs.

    python dataset_scripts/bar.py --source authors --archive bar.zip --output_dir bar
    python dataset_scripts/bar.py --source alinlab --source_dir BAR --dataset_config_names 1pct 5pct --output_dir bar

Writes a Parquet dataset repository with one config per severity (the fraction of bias-conflicting training images);
`datasets.load_dataset("bar", "1pct")` opens it. Source "authors" reads the files published with
https://github.com/kakaoenterprise/BiasEnsemble. Source "alinlab" reads the public dataset of Nam et al., "Learning
from Failure", NeurIPS 2020 (https://github.com/alinlab/BAR). All its training images are bias-aligned and all its test
images bias-conflicting, so this script mixes them itself; the result is not the authors' split.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.benchmark_datasets.benchmark_files import (
    AuthorsFiles,
    Benchmark,
    add_source_options,
    build_from_authors,
    build_from_files,
    check_every_class,
    files_below,
    image_files,
)
from hf_biasensemble.benchmark_datasets.repository import RepositoryParser, run_script
from hf_biasensemble.benchmark_datasets.severity import MIXING, VALIDATION_SHARE, Splits, add_mixture_options, mix
from hf_biasensemble.internal.errors import BiasEnsembleError

SEVERITIES = ("1pct", "5pct")
CLASS_NAMES = ("climbing", "diving", "fishing", "racing", "throwing", "pole vaulting")
EXPECTED = "the folders train/ and test/ with files named <class>_<number>.jpg"
SUMMARY = (
    "Photographs of six actions, a benchmark for debiasing image classifiers. In training and validation the actions "
    "are in their usual place in all but a few bias-conflicting images; configs are named after their fraction."
)
NO_BIAS_LABELS = "- There are no bias labels, since the places in bias-conflicting photographs are unknown."
LICENCE = """- Licence: unknown. The photographs come from imSitu, Stanford 40 Actions, Flickr and an image search;
  the `metadata.json` of [alinlab/BAR](https://github.com/alinlab/BAR) gives their sources and the licences of some."""
AUTHORS = AuthorsFiles(
    name="bar",
    title="BAR (Biased Action Recognition)",
    class_names=CLASS_NAMES,
    bias_names=None,
    severities=SEVERITIES,
    aligned="train/align",
    conflicting="train/conflict/{severity}",
    validation="valid",
    summary=SUMMARY,
    notes=f"""{NO_BIAS_LABELS}
  In training the folder decides whether an image is bias-conflicting. In validation and test it is bias-conflicting if
  the two numbers in its file name differ.
{LICENCE}""",
    tags=("bar", "action-recognition"),
)
ALINLAB = Benchmark(
    name="bar",
    folder="BAR",
    title="BAR (Biased Action Recognition), mixed anew",
    class_names=CLASS_NAMES,
    bias_names=None,
    summary=f"{SUMMARY} **Not the split of the BiasEnsemble paper**: see below.",
    notes=f"{NO_BIAS_LABELS}\n{LICENCE}",
    tags=AUTHORS.tags,
)


def list_folder(root: Path, split: str) -> pd.DataFrame:
    """Lists `train` (bias-aligned) or `test` (bias-conflicting) of the public dataset."""
    paths = files_below(root, split, EXPECTED)
    labels = []
    for path in paths:
        match = re.fullmatch(r"(.+)_\d+\.[A-Za-z]+", path.name)
        if not match or match[1] not in CLASS_NAMES:
            raise BiasEnsembleError(
                f"expected a file name <class>_<number>.<extension> with a class out of {', '.join(CLASS_NAMES)}, "
                f"found {path}; remove the file or correct its name"
            )
        labels.append(CLASS_NAMES.index(match[1]))
    files = image_files(root, paths, label=labels, is_conflicting=[split == "test"] * len(paths))
    check_every_class(files, CLASS_NAMES, f"{root / split}")
    return files


def build(options: Namespace) -> Path:
    """Writes BAR as a dataset repository."""
    if options.source == "authors":
        if options.seed is not None or options.validation_share is not None:
            raise BiasEnsembleError(
                "--seed and --validation_share are not used with --source authors, which has splits; drop them"
            )
        return build_from_authors(AUTHORS, options)
    if options.validation_share is None:
        options.validation_share = VALIDATION_SHARE
    options.seed = options.seed or 0
    share, seed = options.validation_share, options.seed

    def read(root: Path) -> tuple[Splits, str, str]:
        aligned, conflicting = (list_folder(root, split) for split in ("train", "test"))
        splits, configs = mix(pd.concat([aligned, conflicting], ignore_index=True), CLASS_NAMES, options)
        making = f"""- Photographs: {len(aligned):,} bias-aligned ones from the folder `train` of
  [alinlab/BAR](https://github.com/alinlab/BAR) and {len(conflicting):,} bias-conflicting ones from its folder `test`.
- **This is not the authors' split.** The authors of BiasEnsemble made theirs from the same dataset, but only their
  files show which image is where. Accuracies on this split are not comparable to published ones. Its seed was {seed}.
- Validation: {100 * share:g}% of the bias-aligned images, by class, the same for all configs.
{MIXING}
- Test: the remaining bias-conflicting images. So each config has its own test split, without bias-aligned images. No
  image is in two splits of a config, but an image may be in the training split of one and the test split of another.
- The bytes of the image files were kept."""
        words = f"--dataset_config_names {configs} --validation_share {share} --seed {seed} \\\n    "
        return splits, making, words

    return build_from_files(ALINLAB, options, read, "--source alinlab ")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = RepositoryParser(__file__, __doc__)
    text = "whose files (authors); --validation_share and --seed apply to alinlab only"
    parser.add_argument("--source", choices=("authors", "alinlab"), default="authors", help=text)
    add_source_options(parser)
    add_mixture_options(parser, SEVERITIES)
    parser.set_defaults(validation_share=None, seed=None)
    return run_script(parser, build, argv)


if __name__ == "__main__":
    sys.exit(main())
