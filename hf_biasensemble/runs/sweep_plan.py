"""The runs of a sweep: their command lines, their judges, and checks of existing runs."""

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hf_biasensemble.arguments import resolved, settled_selection
from hf_biasensemble.folders.output_folder import MAY_DIFFER_ON_RESUME, RESULTS_FILE, settings_in
from hf_biasensemble.internal.errors import BiasEnsembleError, differences
from hf_biasensemble.methods import METHODS, method_of
from hf_biasensemble.runs.run_arguments import asked_method, parse_run
from hf_biasensemble.selection import FILE_NAME as SELECTION_FILE

_COUNT = {"max_steps", "num_train_epochs", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start"}
_MAY_DIFFER = MAY_DIFFER_ON_RESUME - _COUNT | {"train_fingerprint"}


@dataclass(frozen=True)
class Plan:
    """One run: its place in the comparison, its folder, command line and settings, and the selection it shares."""

    data: str
    method: str
    seed: int
    folder: Path
    words: list[str]
    settings: dict[str, Any]
    selection_dir: Path | None = None
    can_judge: bool = False
    command: str = "train"
    fold: str | None = None

    @property
    def name(self) -> str:
        return f"{self.data} {self.method} seed {self.seed}" + (f", fold {self.fold}" if self.fold else "")

    @property
    def is_finished(self) -> bool:
        if self.command == "train":
            return (self.folder / RESULTS_FILE).exists()
        assert self.selection_dir is not None
        return (self.selection_dir / SELECTION_FILE).exists()


def make_plan(
    asked: argparse.Namespace, overrides: list[str], method: str, data: str, seed: int, fold: str | None = None
) -> Plan:
    """Plans the run of one method, dataset configuration, seed and fold, such as `"1/5"`.

    Parses its command line, so mistakes are found before any run starts.
    """

    def folder_of(method: str) -> Path:
        part = [f"fold_{fold.replace('/', '_of_')}"] if fold else []
        return Path(asked.output_dir, data, method, f"seed_{seed}", *part)

    folder = folder_of(method)
    words = ["--config", asked.config.replace("{method}", method)] if asked.config else []
    words += ["--method", method, "--seed", str(seed), "--output_dir", str(folder), "--disable_tqdm", "true"]
    words += [] if data == "default" else ["--dataset_config_name", data]
    ordinary = next((name for name in asked.methods if METHODS[name].baseline is None), None)
    if ordinary and METHODS[method].baseline is not None:
        words += ["--compare_with", str(folder_of(ordinary))]
    words += ["--validation_fold", fold] if fold else []
    words += ["--method_file", asked.method_file] if asked.method_file else []
    words += _for_method(overrides, method, asked.methods, words)
    data_args, model_args, selection_args, args = parse_run(words)
    start = METHODS[method].starts_from
    if start in asked.methods and not model_args.on_features:
        words += ["--init_from", str(folder_of(str(start)))]
        data_args, model_args, selection_args, args = parse_run(words)
    selection_args = settled_selection(selection_args, model_args, args)
    if model_args.starts_pretrained:
        from hf_biasensemble.models.preprocessing import with_preprocessing  # imports timm

        model_args = with_preprocessing(model_args)
    selector = method_of(args).selector
    if selector:
        depends_on = selector.settings(model_args, selection_args, args)
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:8]
        name = f"seed_{seed}_{digest}" + (f"_{folder.name}" if fold else "")
        shared = Path(asked.output_dir, data, "selections", name)
        words += ["--selection_dir", str(shared)]
    settings = resolved(data_args, model_args, selection_args, args, hidden=method_of(args).hidden)
    settings = yaml.safe_load(yaml.safe_dump(settings))
    can_judge = bool(selector and selector.judges)
    return Plan(data, method, seed, folder, words, settings, shared if selector else None, can_judge, fold=fold)


def with_judges(plans: list[Plan], output_dir: Path) -> tuple[list[Plan], list[Plan]]:
    """Returns runs that train members first, one for each dataset, seed and fold, and all runs with `--judge` added.

    Adds nothing where `--judge` is given already or no method has members that can judge.
    """
    judges: dict[tuple[str, int, str | None], Plan] = {}
    for plan in sorted(plans, key=lambda plan: METHODS[plan.method].starts_from is not None):
        if plan.can_judge and not plan.settings["judge"]:
            shares = [f"--{name}={plan.settings[name]}" for name in ("validation_share", "test_share")]
            folder = output_dir / plan.data / "members" / plan.folder.relative_to(output_dir / plan.data / plan.method)
            words = [*plan.words, "--output_dir", str(folder), *shares]
            judge = replace(plan, method=f"members of {plan.method}", folder=folder, words=words, command="audit")
            judges.setdefault((plan.data, plan.seed, plan.fold), judge)
    judged = []
    for plan in plans:
        its_judge = judges.get((plan.data, plan.seed, plan.fold))
        if its_judge and its_judge.selection_dir != plan.selection_dir:
            plan = replace(plan, words=[*plan.words, "--judge", str(its_judge.selection_dir)])
        judged.append(plan)
    return list(judges.values()), judged


def _for_method(overrides: list[str], method: str, methods: list[str], words: list[str]) -> list[str]:
    """Drops the options that only other methods of the sweep have; the parser refuses those that none has."""
    options: list[list[str]] = []
    for word in overrides:
        if word.startswith("--") or not options:
            options.append([])
        options[-1].append(word)
    known = {name: asked_method([*words, *overrides, "--method", name]).option_names() for name in methods}
    elsewhere = set().union(*known.values()) - known[method]
    kept = [option for option in options if option[0].split("=")[0].removeprefix("--") not in elsewhere]
    return [word for option in kept for word in option]


def check_earlier_run(plan: Plan) -> None:
    """Refuses a finished run with settings other than those of the plan."""
    if plan.is_finished:
        before = settings_in(plan.folder)
        different = differences(before, plan.settings, ignored=_MAY_DIFFER)
        if different:
            raise BiasEnsembleError(
                f"{plan.folder} holds a run with other settings: {'; '.join(different)}; remove it or use another "
                "--output_dir"
            )


def check_same_data(plans: list[Plan]) -> None:
    """Refuses to compare runs on different training images."""
    seen: dict[tuple[str, str | None], tuple[str, Plan]] = {}
    for plan in plans:
        config = settings_in(plan.folder)
        fingerprint, first = seen.setdefault((plan.data, plan.fold), (config["train_fingerprint"], plan))
        if config["train_fingerprint"] != fingerprint:
            raise BiasEnsembleError(
                f"expected all runs of {plan.data} on the same training images, found others in {plan.folder} than in "
                f"{first.folder}; remove the folder that is out of date and start the sweep again"
            )
