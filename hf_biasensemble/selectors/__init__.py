"""All selectors by name. Each file of this folder defines one as `SELECTOR`."""

from hf_biasensemble.arguments.descriptors import Selector
from hf_biasensemble.arguments.registry import Registry

SELECTORS = Registry(Selector, __name__, __path__)
