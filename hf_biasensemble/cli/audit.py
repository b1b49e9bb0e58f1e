"""Show which training images contradict the shortcut: `hf-biasensemble audit --dataset_name DIR --output_dir OUT`.

Trains only the biased members of BiasEnsemble and writes the page OUT/audit.html, with the full list in OUT/audit.csv
and OUT/audit.parquet. Takes the options of train, needs no bias labels, and holds out no images by default.
"""


def main(argv: list[str]) -> int:
    """Makes the selection, or reuses an existing one, and writes the page and the lists."""
    from hf_biasensemble.cli.stop_signal import StopSignal
    from hf_biasensemble.runs.auditing import AuditArguments, AuditDataArguments, audit_images
    from hf_biasensemble.runs.run_arguments import parse_run

    data_args, model_args, selection_args, args, asked = parse_run(
        argv, __doc__, AuditDataArguments, (AuditArguments,), "audit"
    )
    with StopSignal() as stop_signal:
        audit_images(data_args, model_args, selection_args, args, asked.num_images, [stop_signal])
    return 0
