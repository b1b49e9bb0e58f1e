"""Train a debiased classifier: `hf-biasensemble train --config lff_be/cmnist --dataset_name DIR --output_dir OUT`."""

from dataclasses import dataclass
from typing import ClassVar

from hf_biasensemble.arguments import DataArguments, option
from hf_biasensemble.runs.run_arguments import parse_run


@dataclass
class CommandArguments:
    """Command."""

    _argument_group_name: ClassVar[str] = "command"

    dry_run: bool = option(False, "Check settings and data, print what would run, and stop.")


def main(argv: list[str]) -> int:
    """Runs, or describes the run."""
    data_args, model_args, selection_args, args, asked = parse_run(
        argv, __doc__, DataArguments, (CommandArguments,), "train"
    )
    if asked.dry_run:
        from hf_biasensemble.cli.dry_run import describe_run

        description = describe_run(data_args, model_args, selection_args, args)
        if args.should_save:
            print(description)
        return 0
    from hf_biasensemble.cli.stop_signal import StopSignal
    from hf_biasensemble.runs.run import run

    with StopSignal() as stop_signal:
        run(data_args, model_args, selection_args, args, [stop_signal])
    return 0
