"""Compare methods: one run per method, data set configuration and seed, each in a process and a folder of its own.

hf-biasensemble sweep --config '{method}/cmnist' --methods erm lff_be --dataset_config_names 1pct 5pct
--seeds 0 1 2 --dataset_name data/cmnist --output_dir outputs/sweep [any option of train]

Started again, it keeps finished runs and resumes unfinished ones. Methods with BiasEnsemble share a selection where
all that it depends on is equal. Its members are trained first and judge all runs on the same data and seed, those of
other methods too. Writes table.md, table.csv, cells.csv and table.png.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hf_biasensemble.arguments import resolved, settled_selection
from hf_biasensemble.cli.parser import CommandParser
from hf_biasensemble.errors import BiasEnsembleError, differences
from hf_biasensemble.methods import METHODS, load_method_file
from hf_biasensemble.output_folder import CONFIG_FILE, MAY_DIFFER_ON_RESUME, RESULTS_FILE, sole_writer
from hf_biasensemble.run_arguments import parse_run
from hf_biasensemble.selection import FILE_NAME as SELECTION_FILE

LOG_FILE = "train.log"
_NOT_FOR_SWEEPS = (
    *("method", "dataset_config_name", "seed", "selection_dir", "compare_with", "resume_from_checkpoint"),
    *("push_to_hub", "hub_model_id"),
)
_MAY_DIFFER = MAY_DIFFER_ON_RESUME - {"max_steps", "eval_strategy", "eval_steps"} | {"train_fingerprint"}


@dataclass(frozen=True)
class Plan:
    """One run to make: its place in the comparison, its folder, the words of its command line, its settings, and where
    it shares a selection."""

    data: str
    method: str
    seed: int
    folder: Path
    words: list[str]
    settings: dict[str, Any]
    selection_dir: Path | None = None
    command: str = "train"

    @property
    def name(self) -> str:
        return f"{self.data} {self.method} seed {self.seed}"

    @property
    def is_finished(self) -> bool:
        if self.command == "train":
            return (self.folder / RESULTS_FILE).exists()
        assert self.selection_dir is not None
        return (self.selection_dir / SELECTION_FILE).exists()


def main(argv: list[str] | None = None) -> int:
    """Runs what is missing and writes the tables; 1 if a run failed."""
    asked, overrides = _parse(argv)
    output_dir = Path(asked.output_dir)
    plans = [
        make_plan(asked, overrides, method, data, seed)
        for data, method, seed in itertools.product(asked.dataset_config_names, asked.methods, asked.seeds)
    ]
    for plan in plans:
        check_earlier_run(plan)
    judges, plans = with_judges(plans, output_dir)
    with sole_writer(output_dir):
        failures = run_all([*judges, *plans], asked.jobs)
        from hf_biasensemble.reporting.sweep_table import Cell, write_sweep_tables

        finished = [plan for plan in plans if plan.is_finished]
        check_same_data(finished)
        if finished:
            cells = [Cell.read(plan.folder, plan.data, plan.method, plan.seed) for plan in finished]
            baselines = {name: METHODS[name].baseline for name in asked.methods}
            print(write_sweep_tables(cells, output_dir, failures, baselines))
    print(f"{len(finished)} of {len(plans)} runs finished; tables in {output_dir}", flush=True)
    return 1 if failures else 0


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the sweep, and the rest, which is for the runs."""
    parser = CommandParser("sweep", __doc__)
    parser.add_argument("--methods", nargs="+", required=True, help=f"What to compare: {', '.join(METHODS)}.")
    parser.add_argument("--method_file", help="Python file that defines a further method of --methods.")
    parser.add_argument("--dataset_config_names", nargs="+", default=["default"], help="Configurations, as 1pct 5pct.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Seeds (0 1 2).")
    parser.add_argument("--output_dir", required=True, help="Folder for runs and tables.")
    parser.add_argument("--config", help="YAML file or recipe; {method} in its name stands for the method.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time (1); they share the processor cores.")
    asked, overrides = parser.parse_known_args(argv)
    if asked.jobs < 1:
        raise BiasEnsembleError(f"--jobs: expected at least 1, found {asked.jobs}")
    for word in overrides:
        name = word.split("=")[0].removeprefix("--")
        if word.startswith("--") and name in _NOT_FOR_SWEEPS:
            raise BiasEnsembleError(f"--{name} cannot be given to a sweep; see hf-biasensemble sweep --help")
    if asked.method_file:
        load_method_file(asked.method_file)
    for method in asked.methods:
        METHODS[method]  # refuses an unknown one
    for name in ("methods", "dataset_config_names", "seeds"):
        values = getattr(asked, name)
        if len(set(values)) < len(values):
            raise BiasEnsembleError(f"--{name}: expected different values, found {' '.join(map(str, values))}")
    return asked, overrides


def make_plan(asked: argparse.Namespace, overrides: list[str], method: str, data: str, seed: int) -> Plan:
    """The run of one method, configuration and seed; its command line is parsed, so that mistakes show at once."""
    folder = Path(asked.output_dir) / data / method / f"seed_{seed}"
    words = ["--config", asked.config.replace("{method}", method)] if asked.config else []
    words += ["--method", method, "--seed", str(seed), "--output_dir", str(folder), "--disable_tqdm", "true"]
    words += [] if data == "default" else ["--dataset_config_name", data]
    ordinary = next((name for name in asked.methods if METHODS[name].baseline is None), None)
    if ordinary and METHODS[method].baseline is not None:
        words += ["--compare_with", str(folder.parents[1] / ordinary / folder.name)]
    if METHODS[method].starts_from in asked.methods:
        words += ["--init_from", str(folder.parents[1] / str(METHODS[method].starts_from) / folder.name)]
    words += ["--method_file", asked.method_file] if asked.method_file else []
    words += _for_method(overrides, method, asked.methods)
    data_args, model_args, selection_args, args = parse_run(words)
    selection_args = settled_selection(selection_args, model_args, args)
    if model_args.starts_pretrained:
        from hf_biasensemble.models.preprocessing import with_preprocessing

        model_args = with_preprocessing(model_args)
    selector = METHODS[method].selector
    if selector:
        depends_on = selector.settings(model_args, selection_args, args) | {"selector": selector.name}
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:8]
        words += ["--selection_dir", str(Path(asked.output_dir) / data / "selections" / f"seed_{seed}_{digest}")]
    settings = resolved(data_args, model_args, selection_args, args, hidden=METHODS[method].unused)
    settings = yaml.safe_load(yaml.safe_dump(settings))
    return Plan(data, method, seed, folder, words, settings, Path(words[-1]) if selector else None)


def with_judges(plans: list[Plan], output_dir: Path) -> tuple[list[Plan], list[Plan]]:
    """The runs that train members first, one for each data and seed, and all runs with these members as their judge.

    Nothing is added where a judge is named already, or where no method has members that can judge.
    """
    judges: dict[tuple[str, int], Plan] = {}
    for plan in sorted(plans, key=lambda plan: METHODS[plan.method].starts_from is not None):
        selector = METHODS[plan.method].selector
        if selector and selector.judges and not plan.settings["judge"]:
            shares = [f"--{name}={plan.settings[name]}" for name in ("validation_share", "test_share")]
            folder = output_dir / plan.data / "members" / plan.folder.name
            words = [*plan.words, "--output_dir", str(folder), *shares]
            judge = replace(plan, method=f"members of {plan.method}", folder=folder, words=words, command="audit")
            judges.setdefault((plan.data, plan.seed), judge)
    judged = []
    for plan in plans:
        its_judge = judges.get((plan.data, plan.seed))
        judge_dir = its_judge.selection_dir if its_judge else None
        words = [] if judge_dir in (None, plan.selection_dir) else ["--judge", str(judge_dir)]
        judged.append(replace(plan, words=plan.words + words))
    return list(judges.values()), judged


def _for_method(overrides: list[str], method: str, methods: list[str]) -> list[str]:
    """The options for the runs without those that only other methods have; the parser refuses what none has."""
    options: list[list[str]] = []
    for word in overrides:
        if word.startswith("--") or not options:
            options.append([])
        options[-1].append(word)
    known = {name: METHODS[name].option_names() for name in methods}
    elsewhere = set().union(*known.values()) - known[method]
    kept = [option for option in options if option[0].split("=")[0].removeprefix("--") not in elsewhere]
    return [word for option in kept for word in option]


def check_earlier_run(plan: Plan) -> None:
    """Refuses a finished run that was made with other settings than those asked for now."""
    if plan.is_finished:
        before = yaml.safe_load((plan.folder / CONFIG_FILE).read_text(encoding="utf-8"))
        different = differences(before, plan.settings, ignored=_MAY_DIFFER)
        if different:
            raise BiasEnsembleError(
                f"{plan.folder} holds a run with other settings: {'; '.join(different)}; remove it or use another "
                "--output_dir"
            )


def check_same_data(plans: list[Plan]) -> None:
    """Refuses to put runs on different training images into one table row group."""
    seen: dict[str, tuple[str, Plan]] = {}
    for plan in plans:
        config = yaml.safe_load((plan.folder / CONFIG_FILE).read_text(encoding="utf-8"))
        fingerprint, first = seen.setdefault(plan.data, (config["train_fingerprint"], plan))
        if config["train_fingerprint"] != fingerprint:
            raise BiasEnsembleError(
                f"expected all runs of {plan.data} on the same training images, found others in {plan.folder} than in "
                f"{first.folder}; remove the folder that is out of date and start the sweep again"
            )


def run_all(plans: list[Plan], jobs: int) -> list[str]:
    """Runs what is not finished, `jobs` at a time; a run that fails does not keep the others. Gives the failures."""
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        # First what others are compared with or start from.
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
    """Makes one run, or the rest of it, in a process of its own; says how that ended."""
    with sole_writer(plan.folder, wait=True):
        pass  # a run that an earlier, killed sweep had started may still go on: let it end
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
