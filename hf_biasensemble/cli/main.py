"""`hf-biasensemble COMMAND ...`: each command is a small module with a `main(argv) -> int`."""

import importlib
import os
import sys

from hf_biasensemble.errors import BiasEnsembleError

COMMANDS = {
    "train": "train a debiased classifier",
    "test": "accuracy by group of a saved classifier",
    "judge": "which model is better where the shortcut misleads, without bias labels",
    "audit": "a page that shows which training images contradict the shortcut",
    "explain": "what a saved classifier looks at in odd images",
    "sweep": "compare methods over data sets and seeds",
    "import-reference": "turn a checkpoint of the authors' code into a saved classifier",
    "predict": "labels and probabilities for images of your own",
    "push": "upload a finished output folder to the Hub",
    "export-onnx": "a saved classifier as an ONNX file",
    "make-dataset": "write a benchmark data set as a folder of Parquet files",
    "check-data": "what training would see of a data set",
    "cache": "list or clear what is kept between runs",
}


def run_command(module: str, argv: list[str] | None = None) -> int:
    """Calls the command and turns mistakes of the user into one line and exit status 2."""
    # Large tensors in large pages (Linux): batches of 224 pixels are normalised several times faster. Before torch.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        return importlib.import_module(f"hf_biasensemble.cli.{module}").main(argv)
    except BiasEnsembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run_process(module: str, argv: list[str] | None = None) -> int:
    """[`run_command`] as all that this process does; one of several then leaves the others in order."""
    status = run_command(module, argv)
    if status == 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1:  # set by the launcher
        from hf_biasensemble.collectives import leave

        leave()
    return status


def main() -> int:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        listed = "\n".join(f"  {name:<18}{help}" for name, help in COMMANDS.items())
        asked = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
        print(f"usage: hf-biasensemble COMMAND [options]\n\n{listed}", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    return run_process(sys.argv[1].replace("-", "_"), sys.argv[2:])
