"""All methods by name. Each file of this folder defines one as `METHOD`."""

from dataclasses import replace

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.registry import Registry
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.selectors import SELECTORS

METHODS = Registry(Method, __name__, __path__)


def method_of(args: DebiasingArguments) -> Method:
    """The method of a run, with its `--selector` if given. Raises `BiasEnsembleError` if either does not exist, or the
    method takes no selector."""
    method = METHODS[args.method]
    if args.selector is None:
        return method
    if "selector" in method.hidden:
        raise BiasEnsembleError(f"--selector: expected none with --method {method.name}, found {args.selector}")
    return replace(method, selector=SELECTORS[args.selector])
