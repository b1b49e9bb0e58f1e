"""What the predictions of a classifier depend on: `hf-biasensemble explain --model OUT --dataset_name DIR`.

Changes one thing about each image (its colours, the places of its patches, its border or centre), and writes how many
predictions change with it: reliance.csv and reliance.png. Shows that on single images (counterfactuals.png) beside the
pixels that speak for what is predicted (evidence.png, with the extra `explain`): images that the model gets right and,
with `--compare_with ERM_OUT`, that model does not; bias-conflicting ones where that is known. Needs no bias labels.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from hf_biasensemble.arguments import DataArguments, option, parse_arguments
from hf_biasensemble.errors import BiasEnsembleError, missing_package
from hf_biasensemble.output_folder import FIGURES_DIR

FORMATS = ("png", "svg", "pdf")


@dataclass
class ExplainArguments:
    """What to explain."""

    model: str | None = option(None, "Folder or Hub id of a saved classifier.")
    compare_with: str | None = option(None, "Folder or Hub id of another, such as ERM, that gets the images wrong.")
    split: str = option("test", "Split of the dataset.")
    num_images: int = option(8, "Images to show at most.")
    num_reliance_images: int = option(500, "Images to count changed predictions on; all if the split has not as many.")
    output_dir: str | None = option(
        None, "Folder for the files; by default figures/, in the model's folder if it is one."
    )
    format: str = option("png", "Of the pictures: png, svg or pdf.")
    batch_size: int = option(64, "Images per batch.")

    def __post_init__(self) -> None:
        if not self.model:
            raise BiasEnsembleError("--model: expected the folder or Hub id of a saved classifier, found nothing")
        if self.compare_with == self.model:
            raise BiasEnsembleError(f"--compare_with: expected another model than --model, found {self.model} twice")
        if not 1 <= self.num_images <= 20:
            raise BiasEnsembleError(f"--num_images: expected 1 to 20, found {self.num_images}")
        for name in ("num_reliance_images", "batch_size"):
            if getattr(self, name) < 1:
                raise BiasEnsembleError(f"--{name}: expected at least 1, found {getattr(self, name)}")
        if self.format not in FORMATS:
            raise BiasEnsembleError(f"--format: expected one of {', '.join(FORMATS)}, found {self.format}")


def main(argv: list[str] | None = None) -> int:
    """Opens the models and the data, and writes table and pictures."""
    data_args, explain_args = parse_arguments(
        [DataArguments, ExplainArguments], argv, description=__doc__, command="explain"
    )
    from hf_biasensemble.data.geometry import Geometry
    from hf_biasensemble.data.pixels import ImageSplit
    from hf_biasensemble.data.prepare import load_image_splits
    from hf_biasensemble.models.export import load_classifier
    from hf_biasensemble.reporting.counterfactuals import (
        measure_reliance,
        reliance_text,
        write_counterfactuals,
        write_reliance,
    )
    from hf_biasensemble.reporting.evidence import write_evidence
    from hf_biasensemble.reporting.shown_images import Classifier, images_to_show

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
        classifiers[short] = (model, transform, splits[explain_args.split])

    folder, ending = Path(explain_args.model), explain_args.format
    output_dir = Path(explain_args.output_dir or (folder if folder.is_dir() else Path()) / FIGURES_DIR)
    shown = images_to_show(classifiers, explain_args.num_images, explain_args.batch_size)
    reliance = measure_reliance(classifiers, explain_args.num_reliance_images, explain_args.batch_size)
    print(reliance_text(reliance))
    written = write_reliance(reliance, output_dir / "reliance.csv", output_dir / f"reliance.{ending}")
    if not len(shown.positions):
        print(f"note: {shown.title}; no pictures of single images", file=sys.stderr)
    else:
        written.append(write_counterfactuals(classifiers, shown, output_dir / f"counterfactuals.{ending}"))
        if importlib.util.find_spec("captum"):
            written.append(write_evidence(classifiers, shown, output_dir / f"evidence.{ending}"))
        else:
            print(f"note: no evidence.{ending}: {missing_package('captum', 'explain')}", file=sys.stderr)
    print(*(f"wrote {file}" for file in written), sep="\n")
    return 0


def short_names(names: list[str]) -> list[str]:
    """As many last parts of paths or Hub ids as tell them apart: `erm/seed_0` and `lff_be/seed_0`."""
    parts = [Path(name).resolve().parts for name in names]
    length = 1
    while len({part[-length:] for part in parts}) < len({*parts}):
        length += 1
    return ["/".join(part[-length:]) for part in parts]
