"""From the command line to the settings of a run: first its method, which then says what options there are."""

import dataclasses
from typing import Any

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, parse_arguments
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.parser import Foreign, given_option, read_yaml
from hf_biasensemble.methods import METHODS, load_method_file


def parse_run(
    argv: list[str],
    description: str | None = None,
    data_arguments: type = DataArguments,
    further: tuple[type, ...] = (),
    command: str = "train",
) -> tuple[Any, ...]:
    """The settings of a run, strictly: an option that does nothing with the method at hand is refused like a typo.

    Args:
        argv (`list[str]`): The words of the command line.
        description (`str`, *optional*): For `--help`.
        data_arguments (`type`, *optional*, defaults to `DataArguments`): Dataclass of the options of the data.
        further (`tuple[type, ...]`, *optional*): Dataclasses of further options.
        command (`str`, *optional*, defaults to `"train"`): Whose options they are, for `--help`.

    Returns:
        Data, model and training settings with the selector's in third place, `None` for a method without one; then the
        further ones.

    Raises:
        `BiasEnsembleError`: If there is no such method, or an option is unknown or has a value of the wrong kind.
    """
    method = asked_method(argv)
    types = [*method.argument_types(data_arguments), *further]
    parsed = parse_arguments(
        types,
        argv,
        command,
        hidden={method.arguments: method.unused},
        foreign=lambda name: _option_of_others(name, method),
        description=description,
        epilog=f"Options of --method {method.name}; others have their own. Methods: {', '.join(METHODS)}.",
    )
    values = dict(zip(types, parsed, strict=True))
    selection_args = values[method.selector.arguments] if method.selector else None
    data_args, model_args, args = parsed[0], parsed[1], values[method.arguments]
    args.method = method.name  # --method_file alone names it as well
    return (data_args, model_args, selection_args, args, *parsed[len(parsed) - len(further) :])


def asked_method(argv: list[str]) -> Method:
    """The method that command line or file name, or else the default one."""
    file = given_option("config", argv)
    in_file = read_yaml(file) if file else {}
    method_file = given_option("method_file", argv) or in_file.get("method_file")
    own = load_method_file(str(method_file)) if method_file else None
    default = own.name if own else DebiasingArguments.method
    return METHODS[str(given_option("method", argv) or in_file.get("method") or default)]


def _option_of_others(name: str, method: Method) -> Foreign | None:
    """Which other methods have an option of this name."""
    defaults = {}
    for other in METHODS.values():
        for kind in other.argument_types(DataArguments)[2:]:
            for field in dataclasses.fields(kind):
                if field.name == name and not (kind is other.arguments and name in other.unused):
                    made = field.default_factory
                    defaults[other.name] = field.default if made is dataclasses.MISSING else made()
    if not defaults:
        return None
    reason = f"has no effect with --method {method.name}; it belongs to {', '.join(defaults)}; leave it out"
    return Foreign(next(iter(defaults.values())), reason)
