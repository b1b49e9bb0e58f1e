"""Measure a saved classifier's accuracy by group: `hf-biasensemble test --model OUT --dataset_name DIR`.

For a checkpoint of the authors' code: `--reference_checkpoint DIR --method lff --reference_dataset cmnist`.
"""

from dataclasses import dataclass

from hf_biasensemble.arguments import DataArguments, InferenceArguments, option, parse_arguments
from hf_biasensemble.cli.import_reference import ReferenceArguments
from hf_biasensemble.internal.errors import BiasEnsembleError, require
from hf_biasensemble.internal.files import write_json


@dataclass
class TestArguments:
    """Evaluation."""

    model: str | None = option(None, "Folder or Hub id of a saved classifier, instead of a reference_checkpoint.")
    split: str = option("test", "Split of the dataset.")
    output_file: str | None = option(None, "JSON file for the metrics.")


def main(argv: list[str]) -> int:
    """Prints a table of accuracies and writes them as JSON."""
    types = [DataArguments, TestArguments, ReferenceArguments, InferenceArguments]
    data_args, test_args, reference, inference = parse_arguments(types, argv, "test", description=__doc__)
    if bool(test_args.model) == bool(reference.reference_checkpoint):
        raise BiasEnsembleError(
            "expected one of --model (folder or Hub id of a saved classifier) and --reference_checkpoint (folder of "
            f"the authors' code), found {'both' if test_args.model else 'nothing'}"
        )
    for name, value in vars(reference).items():
        require(not (test_args.model and value), f"--{name}", "only with --reference_checkpoint", "with --model")
    from hf_biasensemble.data.geometry import Geometry
    from hf_biasensemble.data.prepare import load_image_splits
    from hf_biasensemble.evaluation.classifier import evaluate_classifier
    from hf_biasensemble.models.export import load_classifier
    from hf_biasensemble.models.reference_checkpoint import CHECKPOINT_CHOICE
    from hf_biasensemble.reporting.run.progress import results_table

    if test_args.model:
        model, transform, geometry = load_classifier(test_args.model, bool(data_args.feature_column))
    else:
        checkpoint = reference.load()
        model, transform = checkpoint.model, checkpoint.transform
        geometry = Geometry(checkpoint.image_size)
    splits = load_image_splits(data_args, geometry)
    if test_args.split not in splits:
        raise BiasEnsembleError(f"--split {test_args.split}: expected one of {', '.join(splits)}")
    metrics = evaluate_classifier(inference.placed(model), splits[test_args.split], transform, inference.batch_size)
    measured = {f"{test_args.split}_{name}": value for name, value in metrics.items()}
    print(results_table({"": measured}, [test_args.split]))
    results: dict[str, float | str] = {**measured}
    if reference.reference_checkpoint:
        results["checkpoint_choice"] = CHECKPOINT_CHOICE
        print(f"checkpoint: {CHECKPOINT_CHOICE}")
    if test_args.output_file:
        write_json(test_args.output_file, results)
    return 0
