"""Compare methods over datasets and seeds: each run has its own process and folder.

hf-biasensemble sweep --config '{method}/cmnist' --methods erm lff_be --dataset_config_names 1pct 5pct
--seeds 0 1 2 --dataset_name data/cmnist --output_dir outputs/sweep [any option of train]

Run again, it keeps finished runs and resumes unfinished ones. Methods with BiasEnsemble share a selection if
everything it depends on is equal. The members are trained first and judge all runs on the same data and seed,
including those of other methods. If few images are held out, --judge_folds 5 trains each run five more times, each
without a fifth of the training images, and judges by these. Writes table.md, table.csv, cells.csv and table.png.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from hf_biasensemble.arguments.parser import StrictParser
from hf_biasensemble.folders.output_folder import CONFIG_FILE, sole_writer
from hf_biasensemble.internal.errors import BiasEnsembleError, require
from hf_biasensemble.methods import METHODS
from hf_biasensemble.runs.sweep_plan import Plan, check_earlier_run, check_same_data, make_plan, with_judges

LOG_FILE = "train.log"
_NOT_FOR_SWEEPS = {
    **{"method": "--methods", "dataset_config_name": "--dataset_config_names", "seed": "--seeds"},
    **{"validation_fold": "--judge_folds", "resume_from_checkpoint": "the same command again"},
    **dict.fromkeys(("selection_dir", "compare_with", "push_to_hub", "hub_model_id")),
}
"""Options of `train` that a sweep sets itself, with what to use instead."""


def main(argv: list[str]) -> int:
    """Makes the missing runs and writes the tables; returns 1 if a run failed."""
    asked, overrides = _parse(argv)
    output_dir = Path(asked.output_dir)
    folds = [None, *(f"{number}/{asked.judge_folds}" for number in range(1, asked.judge_folds + 1))]
    runs = itertools.product(folds, asked.dataset_config_names, asked.methods, asked.seeds)
    plans = [make_plan(asked, overrides, method, data, seed, fold) for fold, data, method, seed in runs]
    for plan in plans:
        check_earlier_run(plan)
    judges, plans = with_judges(plans, output_dir)
    with sole_writer(output_dir):
        failures = run_all([*judges, *plans], asked.jobs)
        from hf_biasensemble.reporting.sweep.cell import Cell
        from hf_biasensemble.reporting.sweep.sweep_table import write_sweep_tables

        finished = [plan for plan in plans if plan.is_finished]
        check_same_data(finished)
        if finished:
            parts = {
                plan.folder: [part.folder for part in finished if part.folder.parent == plan.folder] for plan in plans
            }
            cells = [
                Cell.read(plan.folder, plan.data, plan.method, plan.seed, parts[plan.folder])
                for plan in finished
                if plan.fold is None
            ]
            baselines = {name: METHODS[name].baseline for name in asked.methods}
            print(write_sweep_tables(cells, output_dir, failures, baselines))
    print(f"{len(finished)} of {len(plans)} runs finished; tables in {output_dir}", flush=True)
    return 1 if failures else 0


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of the sweep, and the remaining words for its runs."""
    parser = StrictParser(
        command="sweep",
        description=__doc__,
        usage="hf-biasensemble sweep --methods METHOD ... --output_dir DIR [--OPTION VALUE ...]",
    )
    parser.add_argument("--methods", nargs="+", required=True, help=f"Methods to compare: {', '.join(METHODS)}.")
    parser.add_argument("--method_file", help="Python file that defines a further method of --methods.")
    parser.add_argument(
        "--dataset_config_names", nargs="+", default=["default"], help="Configurations, such as 1pct 5pct."
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Seeds.")
    parser.add_argument("--output_dir", required=True, help="Folder for runs and tables.")
    parser.add_argument(
        "--judge_folds",
        type=int,
        default=0,
        help="Judge by N folds of the training images: also train without each fold; 0: off.",
    )
    parser.add_argument("--config", help="YAML file or recipe; {method} in its name stands for the method.")
    parser.add_argument("--jobs", type=int, default=1, help="Concurrent runs; they share the processor cores.")
    asked, overrides = parser.parse_known_args(argv)
    require(asked.jobs >= 1, "--jobs", "at least 1", asked.jobs)
    require(asked.judge_folds == 0 or asked.judge_folds >= 2, "--judge_folds", "0 or at least 2", asked.judge_folds)
    for word in overrides:
        name = word.split("=")[0].removeprefix("--")
        if word.startswith("--") and name in _NOT_FOR_SWEEPS:
            instead = _NOT_FOR_SWEEPS[name]
            hint = f"use {instead}" if instead else "leave it out"
            raise BiasEnsembleError(f"--{name} cannot be given to a sweep, which sets it for each run; {hint}")
    if asked.method_file:
        METHODS.load_file(asked.method_file)
    for method in asked.methods:
        METHODS[method]  # raises for an unknown one
    for name in ("methods", "dataset_config_names", "seeds"):
        values = getattr(asked, name)
        require(len(set(values)) == len(values), f"--{name}", "different values", " ".join(map(str, values)))
    return asked, overrides


def run_all(plans: list[Plan], jobs: int) -> list[str]:
    """Makes the unfinished runs, `jobs` at a time, and continues after failures, which it returns."""
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        # Baselines and runs that others start from come first.
        judges = [plan for plan in plans if plan.command != "train"]
        runs = [plan for plan in plans if plan.command == "train"]
        needed = {METHODS[plan.method].starts_from for plan in runs}
        first = [plan for plan in runs if plan.method in needed or METHODS[plan.method].baseline is None]
        number = 0
        try:
            for wave in (judges, first, [plan for plan in runs if plan not in first]):
                running = {pool.submit(run_one, plan, jobs): plan for plan in wave}
                for future in as_completed(running):
                    number += 1
                    plan, outcome = running[future], future.result()
                    print(f"[{number}/{len(plans)}] {plan.name}: {outcome}", flush=True)
                    if not plan.is_finished:
                        failures[plan.name] = outcome
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [f"{plan.name}: {failures[plan.name]}" for plan in plans if plan.name in failures]


def run_one(plan: Plan, jobs: int) -> str:
    """Starts or resumes one run in a new process; returns its outcome in words."""
    with sole_writer(plan.folder, wait=True):
        pass  # wait for a run that an earlier, killed sweep left behind
    if plan.is_finished:
        return "was finished before"
    start = time.monotonic()
    words = plan.words + (["--resume_from_checkpoint", "true"] if (plan.folder / CONFIG_FILE).exists() else [])
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    log = plan.folder / LOG_FILE
    with open(log, "a", encoding="utf-8") as stream:
        ended = subprocess.run(
            [sys.executable, "-m", "hf_biasensemble", plan.command, *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )
    if ended.returncode == 0 and plan.is_finished:
        return f"finished in {time.monotonic() - start:.0f} s"
    said = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return f"FAILED with exit status {ended.returncode} ({said[-1] if said else 'no output'}); see {log}"
