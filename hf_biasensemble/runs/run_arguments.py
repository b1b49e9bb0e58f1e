"""From the command line to the settings of a run: first its method, which determines the options."""

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
    """The settings of a run, strictly: an option that has no effect with its method is refused like a typo.

    Args:
        argv: The words of the command line.
        description: For `--help`.
        data_arguments: Dataclass of the options of the data.
        further: Dataclasses of further options.
        command: Whose options they are, for `--help`.

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
        hidden=method.hidden,
        foreign=lambda name: _option_of_others(name, method),
        description=description,
        epilog=f"Options of --method {method.name}; others have their own. Methods: {', '.join(METHODS)}.",
    )
    values = dict(zip(types, parsed, strict=True))
    selection_args = values[method.selector.arguments] if method.selector else None
    data_args, model_args, args = parsed[0], parsed[1], values[method.arguments]
    model_args = settled_network(model_args, data_args, args)
    args.method = method.name  # --method_file alone names it as well
    own = method.selector and method.selector is not METHODS[method.name].selector
    args.selector = method.selector.name if method.selector and own else None  # --selector_file alone names it too
    return (data_args, model_args, selection_args, args, *parsed[len(parsed) - len(further) :])


def asked_method(argv: list[str]) -> Method:
    """The method that command line or file name, or else the default one, with the selector that they name, if any."""
    file = given_option("config", argv)
    in_file = read_yaml(file) if file else {}

    def value_of(option: str) -> Any:
        return given_option(option, argv) or in_file.get(option)

    method = METHODS.asked(value_of) or METHODS[DebiasingArguments.method]
    selector = None if "selector" in method.hidden else SELECTORS.asked(value_of)
    return dataclasses.replace(method, selector=selector) if selector else method


def _option_of_others(name: str, method: Method) -> Foreign | None:
    """Which other methods have an option of this name."""
    defaults = {}
    owners: list[tuple[str, type, frozenset[str]]] = []
    for other in METHODS.values():
        owners += [(other.name, kind, other.hidden) for kind in other.argument_types(DataArguments)[2:]]
    owners += [(f"--selector {selector.name}", selector.arguments, frozenset()) for selector in SELECTORS.values()]
    for owner, kind, hidden in owners:
        for field in dataclasses.fields(kind):
            if field.name == name and name not in hidden:
                made = field.default_factory
                defaults[owner] = field.default if made is dataclasses.MISSING else made()
    if not defaults:
        return None
    reason = f"has no effect with --method {method.name}; it belongs to {', '.join(defaults)}; leave it out"
    return Foreign(next(iter(defaults.values())), reason)
