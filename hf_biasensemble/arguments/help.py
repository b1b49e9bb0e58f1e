"""How `--help` shows the options, and what people who know other scripts mean by theirs."""

import argparse
import difflib
import re
from collections.abc import Collection, Iterable

ACCEPTED = {
    "train_dir": "dataset_name",
    "image_column_name": "image_column",
    "label_column_name": "label_column",
    "train_val_split": "validation_share",
}
"""Options of Hugging Face's `run_image_classification.py` that mean the same here, and what they are called here."""

MEANT: dict[str, str | tuple[str, ...]] = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": ("per_device_eval_batch_size", "batch_size"),
    "per_device_eval_batch_size": "batch_size",
    "model_name_or_path": ("backbone", "model"),
    "model_name": ("backbone", "model"),
    "model": "backbone",
    "models": "model",
    "checkpoint": "model",
    "arch": "backbone",
    "data_dir": "dataset_name",
    "data_path": "dataset_name",
    "dataset": ("dataset_name", "reference_dataset"),
    "dataset_config": ("dataset_config_name", "dataset_config_names"),
    "severity": ("dataset_config_name", "dataset_config_names"),
    "root_dir": "dataset_name",
    "train_dir": "dataset_name",
    "wd": "weight_decay",
    "output": ("output_dir", "output_file"),
    "out_dir": "output_dir",
    "save_dir": "output_dir",
    "resume": "resume_from_checkpoint",
    "algorithm": "method",
    "baseline": "compare_with",
    "checkpoint_dir": "reference_checkpoint",
    "push_to_hub": "hub_dataset_id",
    "repo_id": ("hub_model_id", "hub_dataset_id"),
    "top_k": "num_images",
    "device": "use_cpu",
    "no_cuda": "use_cpu",
}
"""Usual names of other scripts and earlier names of ours, whose values may differ: by name, the options to look at."""


def option_meant(name: str, known: Collection[str]) -> str | None:
    """The known option that is meant by an unknown one: by meaning, else by spelling."""
    meant = MEANT.get(name, ())
    found = [option for option in ([meant] if isinstance(meant, str) else meant) if option in known]
    return " or ".join(found) or next(iter(difflib.get_close_matches(name, known, n=1)), None)


def unknown_key(key: str, known: Collection[str], where: str) -> str:
    """Message for a key that no option has."""
    near = option_meant(key.lstrip("-"), known)
    hint = f"did you mean {near}?" if near else "see --help for all options"
    return f"unknown option {key} in {where}; {hint}"


def mistake(message: str, parser: argparse.ArgumentParser) -> str:
    """What argparse says of a mistake, with the nearest option for an unknown one, else with where to look."""
    known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    if unknown := re.match(r"unrecognized arguments: (--[\w-]+)", message):
        return unknown_key(unknown[1], known, "the command line")
    return f"{message}; see {parser.prog} --help"


def with_own_names(argv: Iterable[str], known: Collection[str]) -> list[str]:
    """The words of a command line with the options of [`ACCEPTED`] under the names that they have here."""
    words = []
    for word in argv:
        name, equals, value = word.removeprefix("--").partition("=")
        ours = ACCEPTED.get(name.replace("-", "_")) if word.startswith("--") else None
        words.append(f"--{ours}{equals}{value}" if ours in known and name not in known else word)
    return words


class OptionHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Each option once, under its first name, with a short word for its value, and its default if it has one."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return ", ".join(action.option_strings) or super()._format_action_invocation(action)
        return f"{action.option_strings[0]} {_word_for(action)}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, argparse.SUPPRESS) and action.nargs != 0
        return super()._get_help_string(action) if has_default else action.help


def _word_for(action: argparse.Action) -> str:
    many = " ..." if action.nargs in ("+", "*") else ""
    if action.metavar:
        return str(action.metavar)
    if isinstance(action.default, bool) or action.nargs == "?":
        return "true|false"
    if action.choices and len(list(action.choices)) <= 6:
        return "|".join(str(choice) for choice in action.choices)
    named = {int: "INT", float: "FLOAT"}
    return named.get(action.type, "TEXT") + many  # type: ignore[call-overload]
