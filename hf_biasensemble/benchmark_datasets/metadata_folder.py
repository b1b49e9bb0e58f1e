"""Datasets that come as a folder of images with `metadata.csv`."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from hf_biasensemble.benchmark_datasets.benchmark_files import (
    Benchmark,
    add_source_options,
    build_from_files,
    check_every_class,
    image_files,
)
from hf_biasensemble.benchmark_datasets.repository import RepositoryParser, run_script
from hf_biasensemble.benchmark_datasets.severity import (
    MIXING,
    Splits,
    add_mixture_options,
    draw,
    mix,
    random_generator,
)
from hf_biasensemble.data.reading.tables import read_text_table
from hf_biasensemble.internal.errors import BiasEnsembleError

METADATA = "metadata.csv"


def read_metadata(root: Path, image_column: str, values: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Reads `metadata.csv` into a table of [`image_files`], in the order of the rows. `values` maps each column to
    read to its allowed values; the table has their positions as int64. Image names are relative to `root`."""
    metadata = root / METADATA
    if not metadata.is_file():
        raise BiasEnsembleError(
            f"expected {METADATA} and the images it names, found no {METADATA} in {root}; check the source"
        )
    rows = read_text_table(metadata)[0].to_pandas().fillna("")
    expected = [image_column, *values]
    missing = [column for column in expected if column not in rows]
    if missing:
        raise BiasEnsembleError(
            f"expected the columns {', '.join(expected)} in {metadata}, found no {missing[0]}; rename the columns"
        )
    columns = {}
    for name, known in values.items():
        columns[name] = pd.Index(known).get_indexer(rows[name])
        unknown = np.flatnonzero(columns[name] < 0)
        if len(unknown):
            raise BiasEnsembleError(
                f"expected {', '.join(known)} as {name} in {metadata}, line {unknown[0] + 2}, found "
                f"{rows[name][unknown[0]]!r}; correct or drop the row"
            )
    seen = set()
    for line, name in enumerate(rows[image_column], 2):
        resolved = (root / name).resolve()
        if not resolved.is_file() or not resolved.is_relative_to(root.resolve()) or resolved in seen:
            raise BiasEnsembleError(
                f"{metadata}, line {line}: expected an image below this folder that is listed once, found "
                f"{'one listed twice' if resolved in seen else 'none'} at {name!r}; complete or correct the source"
            )
        seen.add(resolved)
    return image_files(root, [root / name for name in rows[image_column]], **columns)


@dataclass(frozen=True, kw_only=True)
class MetadataFolder(Benchmark):
    """Images with `metadata.csv`, which has the columns `file_name`, `label` and `bias_column` with the class and bias
    names as values. Bias number i is aligned with class i. `test_per_cell` (test images of each class with each bias)
    and `severities` are defaults."""

    bias_names: Sequence[str]
    bias_column: str
    test_per_cell: int
    severities: Sequence[str]


def _build_mixtures(source: MetadataFolder, options: Namespace) -> Path:
    """Writes a dataset with one config per severity and a balanced test split that all configs share."""
    per_cell, share, seed = options.test_per_cell, options.validation_share, options.seed
    classes, biases = source.class_names, source.bias_names

    def read(root: Path) -> tuple[Splits, str, str]:
        files = read_metadata(root, "file_name", {"label": classes, source.bias_column: biases})
        files = files.rename(columns={source.bias_column: "bias_label"})
        files["is_conflicting"] = files["label"] != files["bias_label"]
        check_every_class(files, classes, str(root / METADATA))
        cells = (files["label"] * len(biases) + files["bias_label"]).to_numpy()
        sizes = np.bincount(cells, minlength=len(classes) * len(biases))
        if not 0 < per_cell < sizes.min():
            label, bias = divmod(int(sizes.argmin()), len(biases))
            raise BiasEnsembleError(
                f"expected --test_per_cell above 0 and below the {sizes.min()} images of {classes[label]} with "
                f"{source.bias_column} {biases[bias]}, found {per_cell}; use another number"
            )
        rows = draw(cells, np.full(len(sizes), per_cell), random_generator(seed, "test"))
        splits, configs = mix(files.drop(rows), classes, options, files.loc[rows])
        making = f"""- Images and labels are those of `{METADATA}`: {len(files):,} images. An image is
  bias-conflicting if its `{source.bias_column}` is not the one aligned with its class.
- Test: {per_cell} images of each class with each bias label, the same for all configs.
- Validation: {100 * share:g}% of the remaining bias-aligned images, by class, the same for all configs.
{MIXING}
- Images were drawn with seed {seed}; their bytes were kept."""
        words = f"""--dataset_config_names {configs} --test_per_cell {per_cell} \\
    --validation_share {share} --seed {seed} """
        return splits, making, words

    return build_from_files(source, options, read)


def run_mixture_script(
    script: str, documentation: str | None, source: MetadataFolder, argv: Sequence[str] | None = None
) -> int:
    """Runs the command line of a script for a [`MetadataFolder`] and returns the exit status."""
    parser = RepositoryParser(script, documentation)
    add_source_options(parser)
    add_mixture_options(parser, source.severities)
    text = f"test images of each class with each bias ({source.test_per_cell})"
    parser.add_argument("--test_per_cell", type=int, default=source.test_per_cell, metavar="N", help=text)
    return run_script(parser, lambda options: _build_mixtures(source, options), argv)
