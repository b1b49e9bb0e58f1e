"""The strict parser of YAML file and command line.

Command line wins over the YAML file, which wins over the defaults. A key that nobody knows is an error.
"""

import argparse
import difflib
import json
import re
import sys
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.shipped import config_file


def parse_arguments(
    argument_types: list[type], argv: list[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Fills the dataclasses from `--config` (a YAML file, or a recipe by name) and the command line.

    Raises:
        `BiasEnsembleError`: If a key is unknown (names the nearest known one and the file), a value does not fit its
            type, or the file cannot be read.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = StrictParser(argument_types, allow_abbrev=False, description=description)
    parser.add_argument("--config", help="YAML file with any of the options below, or a recipe such as lff_be/cmnist.")
    parser.known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    config_only = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_only.add_argument("--config")
    config, _ = config_only.parse_known_args(argv)
    from_file: list[str] = _read_yaml(config.config, parser) if config.config else []
    try:
        *parsed, _ = parser.parse_args_into_dataclasses([*from_file, *argv], look_for_args_file=False)
    except BiasEnsembleError:
        raise
    except ValueError as error:  # what TrainingArguments itself refuses
        raise BiasEnsembleError(" ".join(str(error).split())) from error
    return tuple(parsed)


class StrictParser(HfArgumentParser):
    """Errors as `BiasEnsembleError`, with the nearest known option."""

    known: set[str] = set()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # argparse would take -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        raise BiasEnsembleError(re.sub(r"^argument (--\w+)[^:]*", r"\1", message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(unknown_key(rest[0].split("=")[0], self.known, "the command line"))
        return parsed, rest


def unknown_key(key: str, known: set[str], where: str) -> str:
    """Message for a key that no option has."""
    near = difflib.get_close_matches(key.lstrip("-"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see --help for all options"
    return f"unknown option {key} in {where}; {hint}"


def _read_yaml(file: str, parser: StrictParser) -> list[str]:
    """The file's content as command line words, which the parser then checks like any other."""
    try:
        content = yaml.safe_load(config_file(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BiasEnsembleError(f"--config {file} could not be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BiasEnsembleError(f"--config {file}: expected lines `option: value`, found {type(content).__name__}")
    words: list[str] = []
    actions = {option.lstrip("-"): action for action in parser._actions for option in action.option_strings}
    known = parser.known - {"h", "help", "config"}
    for key, value in content.items():
        if str(key) not in known:
            raise BiasEnsembleError(unknown_key(str(key), known, file))
        action = actions[str(key)]
        if value is None and action.default is None:
            continue
        if value is None or value == [] or (isinstance(value, list) and action.nargs != "+"):
            expected = "one or more values" if action.nargs == "+" else "one value"
            found = "nothing" if value in (None, []) else value
            raise BiasEnsembleError(f"{file}: {key}: expected {expected}, found {found}; leave it out for the default")
        if isinstance(value, dict):
            value = json.dumps(value)
        values = [str(item) for item in (value if isinstance(value, list) else [value])]
        try:
            parser.parse_known_args([f"--{key}", *values])
        except BiasEnsembleError as error:
            raise BiasEnsembleError(f"{file}: {error}") from error
        words += [f"--{key}", *values]
    return words
