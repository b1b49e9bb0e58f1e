"""How well estimates without bias labels choose and rank checkpoints, from the histories of a sweep:
`python -m benchmarks.judging outputs/sweep`.

Regret is the difference in test accuracy, in points, between the best step of a run and the step that a rule chooses.
The test split must have bias labels and is not used to choose.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

MEASURED = "test_unbiased_accuracy"
RULES: dict[str, Callable[[dict[str, list[float]]], int]] = {
    "last step": lambda run: len(run[MEASURED]) - 1,
    "validation accuracy": lambda run: latest_best(run["validation_accuracy"]),
    "estimated": lambda run: latest_best(smoothed(run["validation_estimated_unbiased_probability"])),
}


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean of each value, counted twice, and its neighbours."""
    around = [[value, *values[max(0, place - 1) : place + 2]] for place, value in enumerate(values)]
    return [float(np.mean(weighed)) for weighed in around]


def latest_best(values: Sequence[float]) -> int:
    """Position of the highest value, the last in case of ties."""
    return max(range(len(values)), key=lambda place: (values[place], place))


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; ties share their mean rank."""
    ranks = []
    for values in (one, other):
        _, of_value, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[of_value])
    return float(np.corrcoef(*ranks)[0, 1])


def read(history: Path) -> dict[str, list[float]]:
    """Columns of a history in percent; empty if the run was not judged."""
    with open(history, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = (
        MEASURED,
        "validation_accuracy",
        *(f"validation_estimated_unbiased_{kind}" for kind in ("accuracy", "probability")),
    )
    if not rows or any(name not in rows[0] for name in names):
        return {}
    return {name: [100 * float(row[name]) for row in rows] for name in names}


def main(argv: list[str] | None = None) -> None:
    """Prints regrets and rank correlations for each dataset configuration."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judging", description=__doc__)
    parser.add_argument("sweep", type=Path, help="output_dir of hf-biasensemble sweep")
    folder = parser.parse_args(argv).sweep
    runs: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(dict)
    for history in sorted(folder.glob("*/*/seed_*/history.csv")):
        data, method, seed, _ = history.relative_to(folder).parts
        if run := read(history):
            runs[data][f"{method} {seed}"] = run
    print("| data | runs | regret of the step, mean (largest) | Spearman, all steps and runs |\n|---|---|---|---|")
    for data, of_data in runs.items():
        regrets = {
            rule: [max(run[MEASURED]) - run[MEASURED][choose(run)] for run in of_data.values()]
            for rule, choose in RULES.items()
        }
        listed = ", ".join(f"{rule} {np.mean(found):.2f} ({max(found):.2f})" for rule, found in regrets.items())
        together = {
            name: [value for run in of_data.values() for value in run[name]] for name in next(iter(of_data.values()))
        }
        correlations = ", ".join(
            f"{name.removeprefix('validation_').replace('_', ' ')} {spearman(values, together[MEASURED]):.3f}"
            for name, values in together.items()
            if name != MEASURED
        )
        print(f"| {data} | {len(of_data)} | {listed} | {correlations} |")


if __name__ == "__main__":
    main()
