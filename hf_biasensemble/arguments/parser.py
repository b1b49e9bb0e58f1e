"""A strict parser for command line and YAML file, built on `transformers.HfArgumentParser`.

The command line overrides the file, and the file overrides the defaults. Unknown options are errors.
"""

import argparse
import copy
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Collection, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_biasensemble.arguments.help import ALIASES, COMMON, OUR_WORDS, OptionHelp
from hf_biasensemble.arguments.unsupported import UNSUPPORTED
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.internal.mistakes import OneLineParser
from hf_biasensemble.internal.shipped import config_file

_TRANSFORMERS = "options of transformers.TrainingArguments"
_SHARED = ("hf_biasensemble.arguments", "transformers")  # --help shows only the common options of these modules


class Foreign(NamedTuple):
    """An option of other methods: its default there, and why it is refused here."""

    default: Any
    reason: str


def parse_arguments(
    argument_types: Sequence[type], argv: list[str] | None = None, command: str | None = None, **options: Any
) -> tuple[Any, ...]:
    """Fills dataclasses from the command line (by default that of this process) and `--config`, a YAML file or recipe.
    `options` go to [`StrictParser`]."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = StrictParser(argument_types, command, show_all="--help-all" in argv, **options)
    parser.add_argument("--config", help="YAML file with any of these options, or a recipe such as lff_be/cmnist.")
    if parser.shortened:
        parser.add_argument("--help-all", action="help", help="show every option and exit")
    file = given_option("config", argv)
    try:
        words = parser.words_of(file, argv) if file else []
        return parser.parse_args_into_dataclasses([*words, *argv])
    except BiasEnsembleError:
        raise
    except ValueError as error:  # raised by TrainingArguments
        raise BiasEnsembleError(reason_of(error)) from error


def given_option(name: str, argv: list[str]) -> str | None:
    """The value of one option on a command line with any other options; `None` if it is absent."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", nargs="?")
    return getattr(parser.parse_known_args(argv)[0], name)


class StrictParser(HfArgumentParser, OneLineParser):
    """A parser that raises `BiasEnsembleError` and groups options in its help by the class that declares them.

    Args:
        argument_types: Dataclasses whose fields are options.
        command: The command, for help and errors.
        hidden: Fields of `TrainingArguments` that are not options here and keep their defaults.
        foreign: Looks up an option of other methods. A file may contain it with its default, or with any value if the
            command line overrides the method of the file.
        show_all: Whether help shows more than the common options.
    """

    def __init__(
        self,
        argument_types: Sequence[type] = (),
        command: str | None = None,
        hidden: Collection[str] = (),
        foreign: Callable[[str], Foreign | None] = lambda name: None,
        show_all: bool = True,
        **kwargs: Any,
    ):
        self.hidden, self.foreign, self.show_all = hidden, foreign, show_all
        self.shortened = False
        HfArgumentParser.__init__(self, argument_types, formatter_class=OptionHelp, allow_abbrev=False, **kwargs)
        if command:
            self.prog = f"hf-biasensemble {command}"
            if argument_types and not self.usage:
                self.usage = f"{self.prog} [--config FILE] [--OPTION VALUE ...]"
        self._action_groups.sort(key=lambda group: group.title == _TRANSFORMERS)
        # By default argparse takes -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

    def _add_dataclass_arguments(self, dtype: type) -> None:
        hints = get_type_hints(dtype)
        groups: dict[type, Any] = {}
        for field in self._options_of(dtype):
            # An option of transformers with a new default counts as ours.
            owner = next(kind for kind in dtype.__mro__ if field.name in kind.__dict__.get("__annotations__", {}))
            if owner not in groups:
                groups[owner] = self.add_argument_group(_title(owner))
            metadata = {**field.metadata, "aliases": ALIASES.get(field.name, [])}
            if not self._is_shown(field.name, owner):
                metadata["help"] = argparse.SUPPRESS
            elif owner is TrainingArguments and field.name in OUR_WORDS:
                metadata["help"] = OUR_WORDS[field.name]
            field = copy.copy(field)
            field.type, field.metadata = hints[field.name], MappingProxyType(metadata)
            self._parse_dataclass_field(groups[owner], field)
            if field.default is True:
                self._actions[-1].help = argparse.SUPPRESS  # hide the negated form, --no_X

    def _options_of(self, dtype: type) -> list[dataclasses.Field]:
        hidden = self.hidden if issubclass(dtype, TrainingArguments) else ()
        return [field for field in dataclasses.fields(dtype) if field.init and field.name not in hidden]

    def _is_shown(self, name: str, owner: type) -> bool:
        if issubclass(owner, TrainingArguments) and name in UNSUPPORTED:
            return False
        further = owner.__module__.startswith(_SHARED) and name not in COMMON
        self.shortened = self.shortened or further
        return self.show_all or not further

    def parse_args_into_dataclasses(self, args: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        """One instance of each dataclass."""
        values = vars(self.parse_args(args))
        return tuple(
            dtype(**{field.name: values[field.name] for field in self._options_of(dtype)})
            for dtype in self.dataclass_types
        )

    def unknown_option(self, name: str, where: str) -> str:
        option = name.removeprefix("--")
        foreign = None if f"--{option}" in self._option_string_actions else self.foreign(option)
        return f"option {name} in {where} {foreign.reason}" if foreign else super().unknown_option(name, where)

    def words_of(self, file: str, argv: list[str]) -> list[str]:
        """The options in a YAML file as command line words, to be checked like these."""
        content = read_yaml(file)
        # Steps on the command line override epochs in the file and vice versa; -1 and 0 mean unset.
        lengths = ("max_steps", "num_train_epochs")
        if any(given_option(name, argv) not in (None, "-1", "0", "0.0") for name in lengths):
            content = {key: value for key, value in content.items() if key not in (*lengths, "schedule_steps")}
        actions = {option.lstrip("-"): action for action in self._actions for option in action.option_strings}
        for name in ("h", "help", "help-all", "config"):
            actions.pop(name, None)
        of_another_method = content.get("method") not in (None, given_option("method", argv) or content.get("method"))
        words: list[str] = []
        for key, value in content.items():
            if (action := actions.get(str(key))) is None:
                foreign = self.foreign(str(key))
                if not foreign or not (of_another_method or value == foreign.default):
                    raise BiasEnsembleError(self.unknown_option(str(key), file))
            elif value is not None or action.default is not None:
                if value in (None, []):
                    raise BiasEnsembleError(
                        f"{file}: {key}: expected a value, found nothing; leave it out for the default"
                    )
                many = action.nargs == "+" or isinstance(value, dict)
                words += words_of_option(str(key), value if many else str(value))
        try:
            self.parse_known_args(words)
        except BiasEnsembleError as error:
            raise BiasEnsembleError(f"{file}: {error}") from error
        return words


def _title(owner: type) -> str:
    if owner is TrainingArguments:
        return _TRANSFORMERS
    title = owner.__dict__.get("_argument_group_name") or (owner.__doc__ or owner.__name__).strip().splitlines()[0]
    return title.rstrip(".")


def read_yaml(file: str) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked; raises `BiasEnsembleError` if there is none."""
    try:
        content = yaml.safe_load(config_file(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BiasEnsembleError(f"--config {file} could not be read: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise BiasEnsembleError(f"--config {file}: expected lines `option: value`, found {type(content).__name__}")
    return content


def words_of_option(name: str, value: Any) -> list[str]:
    """An option as command line words: one per item of a list, JSON for a dict."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"--{name}", *(json.dumps(one) if isinstance(one, dict) else str(one) for one in values)]
