"""Chooses the method of a run by cross-validation: each candidate is judged on folds that it was not trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from hf_biasensemble.arguments import DebiasingArguments, ModelArguments
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.data.held_out import folds_of
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.internal.collectives import num_processes, shared_out
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import write_json
from hf_biasensemble.internal.processes import print_once, print_whole
from hf_biasensemble.judging.folds import Choice, choose, doubt_of_members
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.inputs import Inputs
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection


@dataclass(frozen=True)
class Candidate:
    """A method and its options, written as `method` or `method:option=value,option=value`."""

    name: str
    method: Method
    options: dict[str, Any]

    @classmethod
    def of(cls, name: str) -> "Candidate":
        """Parses a value of `--candidates`."""
        method, _, options = name.partition(":")
        candidate = cls(name, METHODS[method], {})
        if candidate.method.chooses:
            raise BiasEnsembleError(f"--candidates: expected methods that train a classifier, found {method}")
        defaults = {key: value for key, value in candidate.defaults().items() if key not in candidate.method.unused}
        for part in filter(None, options.split(",")):
            option, _, value = part.partition("=")
            try:
                candidate.options[option] = _parse(value, defaults[option])
            except (KeyError, TypeError, ValueError) as error:
                raise BiasEnsembleError(
                    f"--candidates {name}: expected option=value with options of {method} "
                    f"({', '.join(sorted(defaults)) or 'it has none'}), found {part}"
                ) from error
        return candidate

    def defaults(self) -> dict[str, Any]:
        """Names and defaults of the method's own options."""
        common = {field.name for field in fields(DebiasingArguments)}
        return {field.name: field.default for field in fields(self.method.arguments) if field.name not in common}

    def settings(self, args: DebiasingArguments, **changes: Any) -> DebiasingArguments:
        """The settings of the run, updated with the candidate's."""
        common = {field.name: getattr(args, field.name) for field in fields(DebiasingArguments) if field.init}
        return self.method.arguments(**(common | {"method": self.method.name} | self.options | changes))


def _parse(text: str, default: Any) -> Any:
    """Parses the value of an option with this default."""
    if not text:
        raise ValueError("no value")
    return {"true": True, "false": False}[text] if isinstance(default, bool) else type(default)(text)


def check_candidates(args: Any, model_args: ModelArguments, selector: Any, train: ImageSplit) -> None:
    """Refuses candidates that cannot be compared, or not in reasonable time, before anything is trained."""
    if not model_args.on_features:
        raise BiasEnsembleError(
            "--method: expected --freeze_backbone true or --feature_column, where candidates take seconds, found a "
            "network that is trained as a whole; compare methods with hf-biasensemble sweep"
        )
    folds_of(train, args.folds, args.seed, "--folds")
    for candidate in map(Candidate.of, args.candidates):
        candidate.settings(args)
        if candidate.method.starts_from and model_args.head != "linear":
            raise BiasEnsembleError(
                f"--candidates: expected methods for --head {model_args.head}, found {candidate.method.name}, which "
                "only trains a linear head; leave it out"
            )
        own = candidate.method.selector
        if own and own.name != selector.name:
            raise BiasEnsembleError(
                f"--candidates: expected methods without a selector or with {selector.title}, found "
                f"{candidate.method.name}, which has {own.title}"
            )


def choose_candidate(
    inputs: Inputs, selection_args: Any, args: Any, selector: Any, callbacks: Sequence[TrainerCallback]
) -> tuple[Candidate, dict[str, Any]]:
    """Returns the best candidate, and how it was chosen as part of the results of the run.

    Reads training images only. The choice is stored in `output_dir/selection`, so a resumed run does not choose again.
    """
    path = Path(args.output_dir) / "selection" / "candidates.json"
    if args.resume_from_checkpoint and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Candidate.of(stored["chosen"]), {"candidates": stored}
    candidates = {name: Candidate.of(name) for name in args.candidates}
    selection, _ = make_selection(selector, inputs, selection_args, args, must_serve=False, callbacks=callbacks)
    choice = _choose_by_folds(list(candidates.values()), inputs, selection_args, args, selection)
    print_once(choice.sentence())
    chosen = candidates[choice.chosen]
    settings = chosen.settings(args)
    stored = choice.as_dict() | {"options": {name: getattr(settings, name) for name in sorted(chosen.defaults())}}
    if args.should_save:
        write_json(path, stored)
    return chosen, {"candidates": stored}


def _choose_by_folds(
    candidates: Sequence[Candidate], inputs: Inputs, selection_args: Any, args: Any, selection: Selection
) -> Choice:
    """Trains each candidate, and members for it, without each of the folds, and compares their predictions for these.

    The first candidate is the baseline; it is chosen without training if the members cannot rank candidates. The
    `selection` must come from members that never saw the images they judge.
    """
    train, seen_by_members = inputs.splits["train"], inputs.member_splits["train"]
    baseline = candidates[0].name
    if doubt := doubt_of_members(selection, len(train.class_names)):
        return Choice(baseline, baseline, (), 0, len(train), 1.0, doubt)
    fold = folds_of(train, args.folds, args.seed, "--folds")
    changes = {
        **{"eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True},
        **{"checkpoint_choice": "last", "report_to": ["none"]},
        # A single process trains a fold, on the whole batch.
        "per_device_train_batch_size": args.per_device_train_batch_size * num_processes(),
    }
    if selection_args.member_batch_size:
        whole = selection_args.member_batch_size * num_processes()
        selection_args = replace(selection_args, member_batch_size=whole)
    dropped: set[str] = set()  # in the folds of this process

    def judged_on(number: int) -> dict[str, np.ndarray | str]:
        """By candidate, whether it classifies each image of the fold correctly, or why it was dropped."""
        inside, held_out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        votes: dict[str, Selection] = {}
        found: dict[str, np.ndarray | str] = {}
        for candidate in [candidate for candidate in candidates if candidate.name not in dropped]:
            selector, settings = candidate.method.selector, candidate.settings(args, **changes)
            extra = {}
            try:
                if selector:
                    if selector.name not in votes:
                        seen = {"train": seen_by_members.select(inside)}
                        members = selector.trainer(inputs.member_args, selection_args, settings, seen, [])
                        members.train_bare()
                        votes[selector.name] = members.select({})
                    if candidate.method.needs_set:
                        selector.check(votes[selector.name], train.class_names)
                    extra = {"selection": votes[selector.name]}
                network = candidate.method.network(inputs.network_args, train.class_names, args.seed)
                rest = train.select(inside)
                trainer = candidate.method.trainer(network, settings, inputs.transform, train_dataset=rest, **extra)
                trainer.train_bare()
            except BiasEnsembleError as error:
                if candidate is candidates[0]:
                    raise
                dropped.add(candidate.name)
                found[candidate.name] = str(error)
            else:
                found[candidate.name] = trainer.held_out_predictions("", train.select(held_out)).correct
        left = len(candidates) - len(dropped)
        print_whole(f"Judging {left} candidates: fold {number + 1} of {args.folds} done")
        return found

    correct = {candidate.name: np.zeros(len(train)) for candidate in candidates}
    for number, found in enumerate(shared_out(judged_on, args.folds)):
        for name, judged in found.items():
            if name in correct and isinstance(judged, str):
                print_once(f"{name} is not a candidate: {judged}")
                del correct[name]
            elif name in correct:
                correct[name][fold == number] = judged
    return choose(correct, selection.mean_probability, baseline, args.accept_loss / 100)
