"""Judges models on held-out images by saved members, without bias labels."""

import sys
from dataclasses import dataclass
from typing import Any

from hf_biasensemble.arguments import DataArguments, InferenceArguments, option
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.internal.collectives import meet, shared_out
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import write_json
from hf_biasensemble.internal.processes import is_first
from hf_biasensemble.judging.members import Members
from hf_biasensemble.judging.predictions import HeldOutPredictions
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.reporting.run.judgement import judgement_table


@dataclass
class JudgeArguments:
    """Models to judge, and the members that judge them."""

    model: list[str] | None = option(None, "Folders or Hub ids of saved classifiers.")
    compare_with: str | None = option(
        None, "Folder or Hub id of a classifier, such as ERM, to compare each of them with."
    )
    members: str | None = option(None, "Folder of a run with BiasEnsemble, or of its selection.")
    split: str = option("validation", "Split that neither models nor members were trained on.")
    output_file: str | None = option(None, "JSON file for the estimates.")

    def __post_init__(self) -> None:
        if not self.model:
            raise BiasEnsembleError("--model: expected folders or Hub ids of saved classifiers, found nothing")
        if self.compare_with in self.model:
            raise BiasEnsembleError(f"--compare_with: expected another model than --model, found {self.compare_with}")
        if not self.members:
            raise BiasEnsembleError("--members: expected the folder of a run with BiasEnsemble, found nothing")
        if self.split == "train":
            raise BiasEnsembleError("--split: expected a split that the members were not trained on, found train")


def judge_models(
    data_args: DataArguments, judge_args: JudgeArguments, inference: InferenceArguments
) -> tuple[str, dict[str, Any]]:
    """Returns the text and values of [`judgement_table`], and writes the values to `output_file`.

    Processes share the models among them.
    """
    meet(inference.use_cpu)
    members = Members.load(str(judge_args.members)).to(inference.device)
    names = [name for name in (judge_args.compare_with, *(judge_args.model or ())) if name]
    opened = {name: load_classifier(name, bool(data_args.feature_column)) for name in names}
    decoded = {}
    for geometry in {members.geometry, *(geometry for _, _, geometry in opened.values())}:
        decoded[geometry] = load_image_splits(data_args, geometry)
        if judge_args.split not in decoded[geometry]:
            raise BiasEnsembleError(
                f"--split {judge_args.split}: expected one of {', '.join(decoded[geometry])}; --validation_share "
                "splits off part of the training images"
            )
    seen = decoded[members.geometry]
    if "train" in seen and seen["train"].fingerprint != members.train_fingerprint and is_first():
        print(
            "note: the members were not trained on the training split of this dataset; the estimates hold only if no "
            f"image of {judge_args.split} was among those they were trained on",
            file=sys.stderr,
        )
    groups = members.groups_of(seen[judge_args.split], inference.batch_size)

    def predictions_of(number: int) -> HeldOutPredictions:
        name, (model, transform, geometry) = list(opened.items())[number]
        split, placed = decoded[geometry][judge_args.split], inference.placed(model)
        return HeldOutPredictions.of_model(placed, split, transform, inference.batch_size, name, groups)

    models = dict(zip(opened, shared_out(predictions_of, len(opened)), strict=True))
    text, results = judgement_table(models, judge_args.compare_with)
    if judge_args.output_file and is_first():
        write_json(judge_args.output_file, results)
    return text, results
