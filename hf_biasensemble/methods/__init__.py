"""The methods by name: one file each in this folder, those of installed packages, and the user's own file.

Each file defines its descriptor as `METHOD` and is imported when the method is asked for.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.internal.errors import BiasEnsembleError

ENTRY_POINTS = "hf_biasensemble.methods"
"""Group of entry points by which a package adds methods: the name of one, and `module:METHOD`."""


class _Methods(Mapping[str, Method]):
    def __init__(self) -> None:
        self._found: dict[str, Method] = {}

    def _names(self) -> list[str]:
        files = [module.name for module in pkgutil.iter_modules(__path__)]
        packages = [point.name for point in entry_points(group=ENTRY_POINTS)]
        return list(dict.fromkeys([*sorted(files), *sorted(packages), *self._found]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __getitem__(self, name: str) -> Method:
        if name not in self._names():
            raise BiasEnsembleError(
                f"--method: expected one of {', '.join(self)}, found {name}; name a file with your own method "
                "by --method_file"
            )
        if name not in self._found:
            points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
            if name in points:
                self._found[name] = _checked(points[name].load(), f"entry point {name}", name)
            else:
                self._found[name] = _checked(importlib.import_module(f"{__name__}.{name}").METHOD, name, name)
        return self._found[name]

    def add(self, method: Method) -> None:
        """Registers a method under its name, for this process."""
        taken = [point.name for point in entry_points(group=ENTRY_POINTS)]
        if method.name in [module.name for module in pkgutil.iter_modules(__path__)] + taken:
            raise BiasEnsembleError(f"a method named {method.name} already exists; rename yours")
        self._found[method.name] = method


METHODS = _Methods()


def load_method_file(file: str) -> Method:
    """Runs a Python file that defines `METHOD`, and registers the method.

    Raises:
        `BiasEnsembleError`: If there is no such file, it does not run, or it defines no [`Method`] of a new name.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise BiasEnsembleError(f"--method_file {file}: expected a Python file, found none")
    spec = importlib.util.spec_from_file_location(f"hf_biasensemble_method_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BiasEnsembleError(f"--method_file {file}: expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise BiasEnsembleError(f"--method_file {file}: {type(error).__name__}: {error}; fix the file") from error
    method = _checked(getattr(module, "METHOD", None), f"--method_file {file}")
    METHODS.add(method)
    return method


def _checked(found: object, where: str, name: str | None = None) -> Method:
    if not isinstance(found, Method):
        raise BiasEnsembleError(f"{where}: expected METHOD = Method(...), found {found!r}; see docs/add_a_method.md")
    if name not in (None, found.name):
        raise BiasEnsembleError(f"{where}: expected a method of that name, found {found.name}")
    return found
