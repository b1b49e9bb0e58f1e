"""What a classifier looks at in odd images: `hf-biasensemble explain --model OUT --dataset_name DIR`.

Draws bias-conflicting images that the model gets right, and with `--compare_with ERM_OUT` gets right where that model
does not, beside the pixels that speak for what each predicts. Needs the extra `explain`.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from hf_biasensemble.arguments import DataArguments, option, parse_arguments
from hf_biasensemble.errors import BiasEnsembleError, missing_package


@dataclass
class ExplainArguments:
    """What to explain."""

    model: str | None = option(None, "Folder or Hub id of a saved classifier.")
    compare_with: str | None = option(None, "Folder or Hub id of another, such as ERM, that gets the images wrong.")
    split: str = option("test", "Split of the data set.")
    num_images: int = option(8, "Images to show at most.")
    output_file: str | None = option(
        None, "Image to write (.png, .svg, .pdf); by default figures/evidence.png, in the model's folder if it is one."
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise BiasEnsembleError("--model: expected the folder or Hub id of a saved classifier, found nothing")
        if self.compare_with == self.model:
            raise BiasEnsembleError(f"--compare_with: expected another model than --model, found {self.model} twice")
        if not 1 <= self.num_images <= 20:
            raise BiasEnsembleError(f"--num_images: expected 1 to 20, found {self.num_images}")
        if self.output_file and Path(self.output_file).suffix not in (".png", ".svg", ".pdf"):
            raise BiasEnsembleError(
                f"--output_file: expected a name that ends in .png, .svg or .pdf, found {self.output_file}"
            )


def main(argv: list[str] | None = None) -> int:
    """Opens the models and the data, and writes the picture."""
    data_args, explain_args = parse_arguments(
        [DataArguments, ExplainArguments], argv, description=__doc__, command="explain"
    )
    if not importlib.util.find_spec("captum"):
        raise missing_package("captum", "explain")
    from hf_biasensemble.data.geometry import Geometry
    from hf_biasensemble.data.pixels import ImageSplit
    from hf_biasensemble.data.prepare import load_image_splits
    from hf_biasensemble.models.export import load_classifier
    from hf_biasensemble.output_folder import EVIDENCE_FIGURE
    from hf_biasensemble.reporting.evidence import Classifier, write_evidence

    folder = Path(explain_args.model)
    file = explain_args.output_file or (folder if folder.is_dir() else Path()) / EVIDENCE_FIGURE
    names = [name for name in (explain_args.compare_with, explain_args.model) if name]
    shown = [Path(name).resolve().name for name in names]
    if len(set(shown)) < len(names):
        shown = names
    classifiers: dict[str, Classifier] = {}
    decoded: dict[Geometry, dict[str, ImageSplit]] = {}
    for name, short in zip(names, shown, strict=True):
        model, transform, geometry = load_classifier(name)
        if geometry not in decoded:
            decoded[geometry] = load_image_splits(data_args, geometry)
        splits = decoded[geometry]
        if explain_args.split not in splits:
            raise BiasEnsembleError(f"--split {explain_args.split}: expected one of {', '.join(splits)}")
        classifiers[short] = (model, transform, splits[explain_args.split])
    print(f"evidence: {write_evidence(classifiers, file, explain_args.num_images)}")
    return 0
