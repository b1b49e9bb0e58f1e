"""The selectors by name: one file each in this folder, which defines `SELECTOR`."""

from hf_biasensemble.arguments.descriptors import Selector
from hf_biasensemble.arguments.registry import Registry

SELECTORS = Registry(Selector, __name__, __path__)
