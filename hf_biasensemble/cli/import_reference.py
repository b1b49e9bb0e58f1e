"""Turn a checkpoint of the authors' code into a saved classifier:

    hf-biasensemble import-reference --reference_checkpoint log/cmnist/NAME/result --method lff \\
        --reference_dataset cmnist --output_dir OUT
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_biasensemble.arguments import option, parse_arguments
from hf_biasensemble.folders.output_folder import check_no_file, written_in
from hf_biasensemble.internal.errors import BiasEnsembleError, require

if TYPE_CHECKING:
    from hf_biasensemble.models.reference_checkpoint import ReferenceCheckpoint

PAPERS = {"LfF": "2007.02561", "DisEnt": "2107.01372", "BiasEnsemble": "2205.14594"}
_NETWORKS = {
    "lff": "It is the {which} network.",
    "disent": "It is the {head} head on the features of the intrinsic and the bias encoder.",
}


@dataclass
class ReferenceArguments:
    """Checkpoint of the authors' code."""

    reference_checkpoint: str | None = option(None, "Folder of best_model_d.th and best_model_b.th.")
    method: str | None = option(None, "Its method: lff or disent, with or without BiasEnsemble.")
    reference_dataset: str | None = option(None, "Its dataset: cmnist, bffhq, dogs_and_cats or bar.")
    which: str | None = option(None, "Which of its networks: debiased (default) or biased.")

    def load(self) -> ReferenceCheckpoint:
        """The network in the files, with their metadata."""
        from hf_biasensemble.models.reference_checkpoint import load_reference_checkpoint

        return load_reference_checkpoint(
            str(self.reference_checkpoint), self.method, self.reference_dataset, self.which or "debiased"
        )


@dataclass
class ImportArguments(ReferenceArguments):
    """Output."""

    output_dir: str | None = option(None, "Folder for the classifier.")

    def __post_init__(self) -> None:
        found = bool(self.reference_checkpoint)
        require(found, "--reference_checkpoint", "a folder of the authors' code", "nothing")
        require(bool(self.output_dir), "--output_dir", "a folder", "nothing")


def main(argv: list[str]) -> int:
    """Writes weights, configuration, preprocessing and model card."""
    (arguments,) = parse_arguments([ImportArguments], argv, "import-reference", description=__doc__)
    from hf_biasensemble.models.export import save_classifier

    output_dir = Path(arguments.output_dir)
    check_no_file(output_dir)
    if found := written_in(output_dir):
        raise BiasEnsembleError(
            f"--output_dir {output_dir}: expected a folder without a model or a run, found {found[0].name}; "
            "name another folder"
        )
    checkpoint = arguments.load()
    save_classifier(checkpoint.model, checkpoint.transform, output_dir)
    write_card(output_dir, checkpoint, arguments)
    print(f"saved to {output_dir}")
    return 0


def write_card(folder: Path, checkpoint: ReferenceCheckpoint, arguments: ImportArguments) -> None:
    """Writes the model card: where the model came from, how it was chosen, how to load it."""
    from hf_biasensemble.models.reference_checkpoint import CHECKPOINT_CHOICE
    from hf_biasensemble.reporting.card.draft import write_short_card

    method, dataset, which = str(arguments.method), str(arguments.reference_dataset), arguments.which or "debiased"
    transform, size = checkpoint.transform, checkpoint.image_size
    name = {"lff": "LfF", "disent": "DisEnt"}[method]
    network = _NETWORKS[method].format(which=which, head="intrinsic" if which == "debiased" else "bias")
    warning = " It is meant to follow the bias: do not rely on it." if which == "biased" else ""
    files = ""
    for file in checkpoint.files:
        step = f"step {file.step} (counted from 0), " if file.step is not None else ""
        converted = f"{' and '.join(file.converted_from)} converted to float32, " if file.converted_from else ""
        files += f"- `{file.path.name}`: {step}{converted}sha256 `{file.sha256}`\n"
    write_short_card(
        folder,
        f"{name} on {dataset}, {which} model",
        f"""Imported with `hf-biasensemble import-reference` from a checkpoint of the
[authors' code](https://github.com/kakaoenterprise/BiasEnsemble) of BiasEnsemble. {network}{warning}""",
        f"""## Origin

{files}- method: {name}, with or without BiasEnsemble (the files do not say which)
- dataset: {dataset}, classes {", ".join(checkpoint.model.config.id2label.values())}
- preprocessing: RGB, {size} x {size} pixels, pixel / 255, then mean {list(transform.image_mean)}, standard deviation
  {list(transform.image_std)}

**{CHECKPOINT_CHOICE.capitalize()}.** The authors' code saves both networks whenever the debiased one reaches its best
test accuracy so far, so accuracy on that test set is too high, and not comparable to that of a run's last step.

## Papers

"""
        + "\n".join(f"- {paper}: https://huggingface.co/papers/{number}" for paper, number in PAPERS.items()),
        repository=folder.resolve().name,
        tags=["image-classification", method, dataset],
    )
