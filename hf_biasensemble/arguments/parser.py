"""The strict parser of YAML file and command line.

Command line wins over the YAML file, which wins over the defaults. A key that nobody knows is an error.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_biasensemble.arguments.help import OptionHelp, unknown_key, with_own_names
from hf_biasensemble.arguments.unsupported import UNSUPPORTED
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.shipped import config_file


class Foreign(NamedTuple):
    """An option that other methods have and the one at hand has not: who has it, and its default there."""

    method: str
    owners: list[str]
    default: Any

    def refused(self, option: str, where: str) -> str:
        """The words of the refusal."""
        return (
            f"option {option} in {where} does nothing with --method {self.method}; expected it with "
            f"{', '.join(self.owners)} only; leave it out"
        )


def parse_arguments(
    argument_types: list[type],
    argv: list[str] | None = None,
    description: str | None = None,
    hidden: Mapping[type, Collection[str]] = MappingProxyType({}),
    foreign: Callable[[str], Foreign | None] = lambda name: None,
    epilog: str | None = None,
    command: str | None = None,
) -> tuple[Any, ...]:
    """Fills the dataclasses from `--config` (a YAML file, or a recipe by name) and the command line.

    Args:
        argument_types (`list[type]`): The dataclasses whose fields are the options.
        argv (`list[str]`, *optional*): The words of the command line, by default those of this process.
        description (`str`, *optional*): For `--help`.
        hidden (`Mapping[type, Collection[str]]`, *optional*): By dataclass, fields that are no options here and keep
            their defaults.
        foreign (`Callable`, *optional*): What is known of an option that none of the dataclasses has. One in the file
            is passed over if it has its default there, or if the command line names another method than the file.
        epilog (`str`, *optional*): For the end of `--help`.
        command (`str`, *optional*): Whose options they are, for `--help`: `train`, ...

    Raises:
        `BiasEnsembleError`: If a key is unknown (names the nearest known one and the file), a value does not fit its
            type, or the file cannot be read.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = StrictParser(argument_types, hidden, foreign, allow_abbrev=False, description=description, epilog=epilog)
    if command:
        parser.prog = f"hf-biasensemble {command}"
        parser.usage = f"{parser.prog} [--config FILE] [--OPTION VALUE ...]"
    parser.add_argument("--config", help="YAML file with any of the options below, or a recipe such as lff_be/cmnist.")
    parser.known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    argv = with_own_names(argv, parser.known)
    file = given_option("config", argv)
    try:
        words = _as_words(file, read_yaml(file), parser, argv) if file else []
        return parser.parse_args_into_dataclasses([*words, *argv])
    except BiasEnsembleError:
        raise
    except ValueError as error:  # what TrainingArguments itself refuses
        raise BiasEnsembleError(" ".join(str(error).split())) from error


def given_option(name: str, argv: list[str]) -> str | None:
    """The value of one option on the command line, if it is there, before anything else is known of the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", nargs="?")
    return getattr(parser.parse_known_args(argv)[0], name)


class StrictParser(HfArgumentParser):
    """Errors as `BiasEnsembleError`, with the nearest known option; options in groups by who declares them."""

    known: set[str] = set()

    def __init__(
        self,
        argument_types: list[type],
        hidden: Mapping[type, Collection[str]] = MappingProxyType({}),
        foreign: Callable[[str], Foreign | None] = lambda name: None,
        **kwargs: Any,
    ):
        self.hidden = hidden
        self.foreign = foreign
        super().__init__(argument_types, formatter_class=OptionHelp, **kwargs)
        for action in self._actions:
            if any(option.startswith("--no_") and option[5:] in self._dests() for option in action.option_strings):
                action.help = argparse.SUPPRESS  # the same option, the other way round
        self._action_groups.sort(key=lambda group: group.title == _group_title(TrainingArguments))
        # argparse would take -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

    def _dests(self) -> set[str]:
        return {action.dest for action in self._actions}

    def _add_dataclass_arguments(self, dtype: type) -> None:
        hints = get_type_hints(dtype)
        groups: dict[type, Any] = {}
        for field in self._options_of(dtype):
            # A default of our own makes an option of transformers one of ours.
            owner = next(kind for kind in dtype.__mro__ if field.name in kind.__dict__.get("__annotations__", {}))
            if owner not in groups:
                groups[owner] = self.add_argument_group(_group_title(owner))
            field.type = hints[field.name]
            if issubclass(dtype, TrainingArguments) and field.name in UNSUPPORTED:
                field.metadata = MappingProxyType({**field.metadata, "help": argparse.SUPPRESS})
            self._parse_dataclass_field(groups[owner], field)

    def _options_of(self, dtype: type) -> list[dataclasses.Field]:
        hidden = self.hidden.get(dtype, ())
        return [field for field in dataclasses.fields(dtype) if field.init and field.name not in hidden]

    def parse_args_into_dataclasses(self, args: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        """One instance of each dataclass."""
        values = vars(self.parse_known_args(args)[0])
        return tuple(
            dtype(**{field.name: values[field.name] for field in self._options_of(dtype)})
            for dtype in self.dataclass_types
        )

    def error(self, message: str) -> NoReturn:
        raise BiasEnsembleError(re.sub(r"^argument (--\w+)[^:]*", r"\1", message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            key = rest[0].split("=")[0]
            foreign = self.foreign(key.removeprefix("--")) if key.startswith("--") else None
            where = "the command line"
            self.error(foreign.refused(key, where) if foreign else unknown_key(key, self.known, where))
        return parsed, rest


def _group_title(owner: type) -> str:
    if owner is TrainingArguments:
        return "training: further options of transformers.TrainingArguments"
    title = owner.__dict__.get("_argument_group_name") or (owner.__doc__ or owner.__name__).strip().splitlines()[0]
    return title.rstrip(".")


def read_yaml(file: str) -> dict[str, Any]:
    """The options in a YAML file, unchecked.

    Raises:
        `BiasEnsembleError`: If it cannot be read or holds something else.
    """
    try:
        content = yaml.safe_load(config_file(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BiasEnsembleError(f"--config {file} could not be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BiasEnsembleError(f"--config {file}: expected lines `option: value`, found {type(content).__name__}")
    return content


_IN_PLACE_OF = {
    "max_steps": {"num_train_epochs", "schedule_steps"},
    "num_train_epochs": {"max_steps", "schedule_steps"},
}
"""By option of the command line, those of the file that it stands in place of, unless it asks for nothing."""


def _as_words(file: str, content: dict[str, Any], parser: StrictParser, argv: list[str]) -> list[str]:
    """The file's content as command line words, which the parser then checks like any other."""
    method = given_option("method", argv)
    words: list[str] = []
    actions = {option.lstrip("-"): action for action in parser._actions for option in action.option_strings}
    known = parser.known - {"h", "help", "config"}
    asked = [option for option in _IN_PLACE_OF if given_option(option, argv) not in (None, "-1", "0", "0.0")]
    replaced = {key for option in asked for key in _IN_PLACE_OF[option]}
    is_of_another_method = method is not None and content.get("method") not in (None, method)
    for key, value in content.items():
        if str(key) not in known:
            foreign = parser.foreign(str(key))
            if foreign is None:
                raise BiasEnsembleError(unknown_key(str(key), known, file))
            if is_of_another_method or value == foreign.default:
                continue
            raise BiasEnsembleError(foreign.refused(str(key), file))
        if str(key) in replaced:
            continue
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
