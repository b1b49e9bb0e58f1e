"""Parses the command line of a run: the method first, since it determines the options."""

import dataclasses
from typing import Any

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, parse_arguments, settled_network
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.parser import Foreign, given_option, read_yaml
from hf_biasensemble.methods import METHODS
from hf_biasensemble.selectors import SELECTORS


def parse_run(
    argv: list[str],
    description: str | None = None,
    data_arguments: type = DataArguments,
    further: tuple[type, ...] = (),
    command: str = "train",
) -> tuple[Any, ...]:
    """Parses the settings of a run. Options without effect on its method are refused like typos.

    Args:
        argv (`list[str]`): Arguments of the command line.
        description (`str`, *optional*): Description for `--help`.
        data_arguments (`type`, *optional*, defaults to `DataArguments`): Dataclass of the dataset's options.
        further (`tuple[type, ...]`, *optional*): Dataclasses of further options.
        command (`str`, *optional*, defaults to `"train"`): Name of the command for `--help`.

    Returns:
        `tuple`: Data, model, selection and training arguments, then the further ones. The selection arguments are
        `None` for methods without a selector.

    Raises:
        `BiasEnsembleError`: If the method or an option is unknown, or a value is invalid.
    """
    method = asked_method(argv)
    types = [*method.argument_types(data_arguments), *further]
    parsed = parse_arguments(
        types,
        argv,
        command,
        hidden=method.hidden,
        foreign=lambda name: _option_of_others(name, method),
        description=description,
        epilog=f"Options of --method {method.name}; others have their own. Methods: {', '.join(METHODS)}.",
    )
    values = dict(zip(types, parsed, strict=True))
    data_args, args, selector = parsed[0], values[method.arguments], method.selector
    model_args = settled_network(parsed[1], data_args, args)
    args.method = method.name  # may come from --method_file
    args.selector = selector.name if selector and selector is not METHODS[method.name].selector else None
    selection_args = values[selector.arguments] if selector else None
    return (data_args, model_args, selection_args, args, *parsed[len(parsed) - len(further) :])


def asked_method(argv: list[str]) -> Method:
    """The method that the command line or YAML file names, or the default one, with the selector they name, if any."""
    file = given_option("config", argv)
    in_file = read_yaml(file) if file else {}

    def value_of(option: str) -> Any:
        return given_option(option, argv) or in_file.get(option)

    method = METHODS.asked(value_of) or METHODS[DebiasingArguments.method]
    selector = None if "selector" in method.hidden else SELECTORS.asked(value_of)
    return dataclasses.replace(method, selector=selector) if selector else method


def _option_of_others(name: str, method: Method) -> Foreign | None:
    """The option of this name that other methods or selectors have, if any."""
    owners = [
        (other.name, kind)
        for other in METHODS.values()
        for kind in other.argument_types(DataArguments)[2:]
        if name not in other.hidden
    ]
    owners += [(f"--selector {selector.name}", selector.arguments) for selector in SELECTORS.values()]
    defaults = {}
    for owner, kind in owners:
        for field in dataclasses.fields(kind):
            if field.name == name:
                made = field.default_factory
                defaults[owner] = field.default if made is dataclasses.MISSING else made()
    if not defaults:
        return None
    reason = f"has no effect with --method {method.name}; it belongs to {', '.join(defaults)}; leave it out"
    return Foreign(next(iter(defaults.values())), reason)
