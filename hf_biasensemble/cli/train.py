"""Train a debiased classifier: `train.py --config lff_be/cmnist --dataset_name DIR --output_dir OUT`."""

from hf_biasensemble.arguments import (
    DataArguments,
    DebiasingArguments,
    ModelArguments,
    SelectionArguments,
    parse_arguments,
)


def main(argv: list[str] | None = None) -> int:
    """Parses the settings and runs."""
    arguments = parse_arguments(
        [DataArguments, ModelArguments, SelectionArguments, DebiasingArguments], argv, description=__doc__
    )
    from hf_biasensemble.run import run  # after parsing: --help and mistakes need no torch model code

    run(*arguments)
    return 0
