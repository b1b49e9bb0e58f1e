"""Makes the Auto classes of transformers know our model, without importing anything before they are.

`AutoModelForImageClassification.register` wants the model's class, whose import takes seconds. So the registration
waits until transformers imports the module that holds its Auto classes, which may be long ago or never.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

AUTO_MODULE = "transformers.models.auto.modeling_auto"
REGISTERING_MODULE = "hf_biasensemble.models.registration"


def register_when_imported() -> None:
    """Registers now if the Auto classes are there, else right after they are imported."""
    if AUTO_MODULE in sys.modules:
        importlib.import_module(REGISTERING_MODULE)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != AUTO_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoaderThatRegisters(spec.loader)
        return spec


class _LoaderThatRegisters(Loader):
    def __init__(self, loader: Any):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module(REGISTERING_MODULE)
