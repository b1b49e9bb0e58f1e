"""Validate and preview a dataset: `hf-biasensemble check-data --dataset_name DIR`.

Takes the data options of train. Exit status: 0 if training would start, 1 if images would stop it.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from textwrap import indent
from typing import TYPE_CHECKING, Any

from hf_biasensemble.arguments import DataArguments, option, parse_arguments
from hf_biasensemble.arguments.options import Options, PositiveInt
from hf_biasensemble.internal.errors import require

if TYPE_CHECKING:
    from hf_biasensemble.data.pixels import ImageSplit

LISTED = 25  # bad images printed
WIDEST = 12  # columns of a printed table


@dataclass
class CheckArguments(Options):
    """Preview."""

    image_size: PositiveInt = option(64, "Height and width of the images in the contact sheet, in pixels.")
    output_dir: str | None = option(None, "Folder for contact_sheet.png and the list of bad images.")


def main(argv: list[str]) -> int:
    """Prints splits, counts by class and bias, sizes, modes and unreadable images; writes a contact sheet."""
    data_args, arguments = parse_arguments([DataArguments, CheckArguments], argv, "check-data", description=__doc__)
    from hf_biasensemble.data.loading import load_splits
    from hf_biasensemble.data.pixels import write_unreadable
    from hf_biasensemble.data.prepare import classes_without_images, decode_splits, parts_to_use
    from hf_biasensemble.folders.output_folder import DROPPED_FILE

    sheet_of_vectors = arguments.output_dir and data_args.feature_column
    require(not sheet_of_vectors, "--output_dir", "it left out with --feature_column", arguments.output_dir)
    labelled = load_splits(data_args)
    decoded = decode_splits(labelled, data_args, arguments.image_size, skip_unreadable=True)
    lost = {name: classes_without_images(split) for name, split in decoded.items()}
    splits = parts_to_use(decoded, data_args)
    for name, split in splits.items():
        print(f"\n{name}: {len(split):,} images, {len(split.class_names)} classes")
        print(count_table(split))
    print()
    for name, source in labelled.items():
        if source.has_vectors:
            print(f"vectors of {name}: {source.pixels.shape[-1]:,} numbers each")
        if source.images is not None:
            print(f"files of {name}: {describe_files(source.images)}")
    bad = [f"{name} {image}" for name, split in decoded.items() for image in split.unreadable]
    for line in bad[:LISTED]:
        print(f"unreadable: {line}")
    if len(bad) > LISTED:
        print(f"unreadable: {len(bad) - LISTED} more")
    if arguments.output_dir:
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_unreadable(decoded, folder / DROPPED_FILE)
        first = next(iter(splits.values()))
        sheet = folder / "contact_sheet.png"
        draw_contact_sheet(first, f"{next(iter(splits))} of {data_args.dataset_name}").save(sheet)
        print(f"contact sheet: {sheet}")
    stops = [f"split {name} has no readable image of {', '.join(lost[name][:10])}" for name in lost if lost[name]]
    if bad and not data_args.skip_unreadable_images:
        stops.append(f"{len(bad)} unreadable images; fix them, or use --skip_unreadable_images")
    for reason in stops:
        print(f"training would stop: {reason}")
    return int(bool(stops))


def count_table(split: "ImageSplit") -> str:
    """Number of images by class and bias label if known, else by class and conflict if known, else by class."""
    import numpy as np
    import pandas as pd  # type: ignore[import-untyped]

    columns = split.measured_by()
    labels, bias, conflicting = columns["labels"], columns["bias_labels"], columns["is_conflicting"]
    if bias is not None and len(split.bias_names or ()) <= WIDEST:
        groups, group = split.bias_names or [], bias
    elif conflicting is not None:
        groups, group = ["bias-aligned", "bias-conflicting"], conflicting.astype(int)
    else:
        groups, group = ["images"], 0 * labels
    counts = np.zeros((len(split.class_names), len(groups)), dtype=int)
    np.add.at(counts, (labels, group), 1)
    table = pd.DataFrame(counts, split.class_names, groups).rename_axis(columns="class")
    return indent(table.map("{:,}".format).to_string(), "  ")


def describe_files(images: Any) -> str:
    """Sizes, formats and modes of the images that open."""
    from hf_biasensemble.data.decoding import open_image

    sizes, kinds = [], Counter[str]()
    for row in range(len(images)):
        try:
            with open_image(images[row]["image"]) as image:
                sizes.append(image.size)
                kinds[f"{image.format} {image.mode}"] += 1
        except Exception:  # already listed as unreadable
            continue
    if not sizes:
        return "none can be opened"
    sides = [
        f"{name} {min(side)} to {max(side)} (median {median_high(side)})"
        for name, side in zip(("width", "height"), zip(*sizes, strict=True), strict=True)
    ]
    listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    return f"{', '.join(sides)} pixels; {listed}"


def draw_contact_sheet(split: "ImageSplit", title: str) -> Any:
    """A row of images per class, with bias-aligned and bias-conflicting ones apart if known."""
    import io

    from PIL import Image

    from hf_biasensemble.benchmark_datasets.repository import SHEET_COLUMNS, Samples, contact_sheet

    columns = split.measured_by()
    conflicting = columns["is_conflicting"]
    samples: Samples = {}
    for position, label in enumerate(columns["labels"].tolist()):
        cell = samples.setdefault((label, conflicting is not None and bool(conflicting[position])), [])
        if len(cell) < SHEET_COLUMNS:
            stream = io.BytesIO()
            pixels = split.__getitems__([position])["pixel_values"][0].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(stream, "PNG")
            cell.append(stream.getvalue())
    captions = [""] if conflicting is None else ["bias-aligned", "bias-conflicting"]
    return contact_sheet(samples, split.class_names, title, captions)
