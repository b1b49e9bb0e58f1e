"""Accuracy by group of a saved classifier: `test.py --model OUT --dataset_name DIR --split test`."""

import json
from dataclasses import dataclass

from hf_biasensemble.arguments import DataArguments, option, parse_arguments
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.files import written_whole


@dataclass
class TestArguments:
    """What to evaluate."""

    model: str | None = option(None, "Folder or Hub id of a saved classifier.")
    split: str = option("test", "Split of the data set.")
    output_file: str | None = option(None, "JSON file for the metrics.")
    batch_size: int = option(512, "Images per batch.")

    def __post_init__(self) -> None:
        if not self.model:
            raise BiasEnsembleError("--model: expected a folder or Hub id of a saved classifier, found nothing")


def main(argv: list[str] | None = None) -> int:
    """Evaluates, prints a table and writes the metrics as JSON."""
    data_args, test_args = parse_arguments([DataArguments, TestArguments], argv, description=__doc__)
    from hf_biasensemble.data.prepare import load_image_splits
    from hf_biasensemble.evaluation import evaluate_classifier
    from hf_biasensemble.models.export import load_classifier
    from hf_biasensemble.reporting.progress import results_table

    model, transform, image_size = load_classifier(test_args.model)
    splits = load_image_splits(data_args, image_size)
    if test_args.split not in splits:
        raise BiasEnsembleError(f"--split {test_args.split}: expected one of {', '.join(splits)}")
    metrics = evaluate_classifier(model, splits[test_args.split], transform, test_args.batch_size)
    results = {f"{test_args.split}_{name}": value for name, value in metrics.items()}
    print(results_table({"": results}, [test_args.split]))
    if test_args.output_file:
        with written_whole(test_args.output_file) as file:
            file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0
