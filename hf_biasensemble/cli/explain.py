"""Measure what a classifier's predictions depend on: `hf-biasensemble explain --model OUT --dataset_name DIR`.

Changes one thing about each image (its colour, the order of its patches, its border or its centre) and counts how many
predictions change: reliance.csv and reliance.png. counterfactuals.png shows images that the model classifies correctly
and, with `--compare_with ERM_OUT`, the other one does not: bias-conflicting ones if these are known. Needs no
bias labels.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hf_biasensemble.arguments import DataArguments, InferenceArguments, option, parse_arguments
from hf_biasensemble.arguments.options import Allowed, Options, PositiveInt, one_of
from hf_biasensemble.folders.output_folder import FIGURES_DIR
from hf_biasensemble.internal.errors import BiasEnsembleError, require
from hf_biasensemble.internal.files import written_whole


@dataclass
class ExplainArguments(Options):
    """Explanation."""

    model: str | None = option(None, "Folder or Hub id of a saved classifier.")
    compare_with: str | None = option(
        None, "Folder or Hub id of another classifier, such as ERM; images that it misclassifies are shown."
    )
    split: str = option("test", "Split of the dataset.")
    num_images: Annotated[int, Allowed("1 to 20", lambda value: 1 <= value <= 20)] = option(
        8, "Maximum number of images to show."
    )
    num_reliance_images: PositiveInt = option(
        500, "Images to count changed predictions on; all if the split has fewer."
    )
    output_dir: str | None = option(None, "Folder for the files; by default figures/ in the model's folder.")
    format: Annotated[str, one_of("png", "svg", "pdf")] = option("png", "Format of the pictures: png, svg or pdf.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.model), "--model", "the folder or Hub id of a saved classifier", "nothing")
        another = self.compare_with != self.model
        require(another, "--compare_with", "another model than --model", f"{self.model} twice")


def main(argv: list[str]) -> int:
    """Loads models and data, and writes the table and the pictures."""
    types = [DataArguments, ExplainArguments, InferenceArguments]
    data_args, explain_args, inference = parse_arguments(types, argv, "explain", description=__doc__)
    require(not data_args.feature_column, "--feature_column", "images, which can be changed to explain", "vectors")
    from hf_biasensemble.data.geometry import Geometry
    from hf_biasensemble.data.pixels import ImageSplit
    from hf_biasensemble.data.prepare import load_image_splits
    from hf_biasensemble.models.export import load_classifier
    from hf_biasensemble.reporting.explain.counterfactuals import (
        Classifier,
        images_to_show,
        measure_reliance,
        reliance_text,
        write_counterfactuals,
    )
    from hf_biasensemble.reporting.figures.counterfactuals import reliance_figure

    names = [name for name in (explain_args.compare_with, explain_args.model) if name]
    classifiers: dict[str, Classifier] = {}
    decoded: dict[Geometry, dict[str, ImageSplit]] = {}
    for name, short in zip(names, short_names(names), strict=True):
        model, transform, geometry = load_classifier(name)
        if geometry not in decoded:
            decoded[geometry] = load_image_splits(data_args, geometry)
        splits = decoded[geometry]
        if explain_args.split not in splits:
            raise BiasEnsembleError(f"--split {explain_args.split}: expected one of {', '.join(splits)}")
        inference.placed(model)
        classifiers[short] = (model, transform, splits[explain_args.split])

    folder, ending = Path(explain_args.model), explain_args.format
    output_dir = Path(explain_args.output_dir or (folder if folder.is_dir() else Path()) / FIGURES_DIR)
    shown = images_to_show(classifiers, explain_args.num_images, inference.batch_size)
    reliance = measure_reliance(classifiers, explain_args.num_reliance_images, inference.batch_size)
    print(reliance_text(reliance))
    written = [output_dir / "reliance.csv", reliance_figure(reliance, output_dir / f"reliance.{ending}")]
    with written_whole(written[0]) as file:
        reliance.to_csv(file, index=False, float_format="%.4f")
    if not len(shown.positions):
        print(f"note: {shown.title}; no pictures of single images", file=sys.stderr)
    else:
        picture = output_dir / f"counterfactuals.{ending}"
        written.append(write_counterfactuals(classifiers, shown, picture, inference.batch_size))
    print(*(f"wrote {file}" for file in written), sep="\n")
    return 0


def short_names(names: list[str]) -> list[str]:
    """The shortest endings of paths or Hub ids that are distinct: `erm/seed_0` and `lff_be/seed_0`."""
    parts = [Path(name).resolve().parts for name in names]
    length = 1
    while len({part[-length:] for part in parts}) < len({*parts}):
        length += 1
    return ["/".join(part[-length:]) for part in parts]
