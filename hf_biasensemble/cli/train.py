"""Train a debiased classifier: `train.py --config lff_be/cmnist --dataset_name DIR --output_dir OUT`."""

import sys

from hf_biasensemble.run_arguments import parse_run


def main(argv: list[str] | None = None) -> int:
    """Parses the settings and runs."""
    data_args, model_args, selection_args, args = parse_run(sys.argv[1:] if argv is None else argv, __doc__)
    from hf_biasensemble.cli.stop_signal import StopSignal
    from hf_biasensemble.run import run

    with StopSignal() as stop_signal:
        run(data_args, model_args, selection_args, args, [stop_signal])
    return 0
