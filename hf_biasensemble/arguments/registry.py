"""Methods and selectors by name: one file each, in the library, in other packages or the user's own."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from hf_biasensemble.arguments.descriptors import Method, Selector
from hf_biasensemble.internal.errors import BiasEnsembleError

Descriptor = TypeVar("Descriptor", Method, Selector)


class Registry(Mapping[str, Descriptor], Generic[Descriptor]):
    """The descriptors of a kind. Each is imported when it is asked for.

    Args:
        kind (`type`): `Method` or `Selector`; a file defines its descriptor as `METHOD` or `SELECTOR`.
        package (`str`): The package of the library with one module for each, and the group of entry points by which
            other packages add theirs: the name of one, and `module:METHOD`.
        path (`Iterable[str]`): Its folders.
    """

    def __init__(self, kind: type[Descriptor], package: str, path: Iterable[str]):
        self.kind: type[Descriptor] = kind
        self.package, self.path = package, path
        self.word = kind.__name__.lower()
        self._found: dict[str, Descriptor] = {}

    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.package)}

    def _shipped(self) -> list[str]:
        return [module.name for module in pkgutil.iter_modules(self.path)]

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*sorted(self._shipped()), *sorted(self._points()), *self._found]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __getitem__(self, name: str) -> Descriptor:
        if name not in self._names():
            raise BiasEnsembleError(
                f"--{self.word}: expected one of {', '.join(self)}, found {name}; name a file with your own "
                f"{self.word} by --{self.word}_file"
            )
        if name not in self._found:
            points = self._points()
            if name in points:
                self._found[name] = self._checked(points[name].load(), f"entry point {name}", name)
            else:
                module = importlib.import_module(f"{self.package}.{name}")
                self._found[name] = self._checked(getattr(module, self.word.upper(), None), name, name)
        return self._found[name]

    def add(self, descriptor: Descriptor) -> None:
        """Registers one under its name, for this process."""
        if descriptor.name in [*self._shipped(), *self._points()]:
            raise BiasEnsembleError(f"a {self.word} named {descriptor.name} already exists; rename yours")
        self._found[descriptor.name] = descriptor

    def asked(self, value_of: Callable[[str], Any]) -> Descriptor | None:
        """The one that is asked for: by name (`--method`), or the one in the user's file (`--method_file`).

        Args:
            value_of (`Callable[[str], Any]`): The value of an option by its name, `None` where it is not given.
        """
        file, name = value_of(f"{self.word}_file"), value_of(self.word)
        own = self.load_file(str(file)) if file else None
        return self[str(name)] if name else own

    def load_file(self, file: str) -> Descriptor:
        """Runs a Python file that defines `METHOD` or `SELECTOR`, and registers what it defines.

        Raises:
            `BiasEnsembleError`: If there is no such file, it does not run, or it defines none of a new name.
        """
        option, path = f"--{self.word}_file {file}", Path(file).expanduser()
        if not path.is_file():
            raise BiasEnsembleError(f"{option}: expected a Python file, found none")
        spec = importlib.util.spec_from_file_location(f"hf_biasensemble_{self.word}_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise BiasEnsembleError(f"{option}: expected a name that ends in .py")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever the user's code raises
            raise BiasEnsembleError(f"{option}: {type(error).__name__}: {error}; fix the file") from error
        found = self._checked(getattr(module, self.word.upper(), None), option)
        self.add(found)
        return found

    def _checked(self, found: object, where: str, name: str | None = None) -> Descriptor:
        if not isinstance(found, self.kind):
            raise BiasEnsembleError(
                f"{where}: expected {self.word.upper()} = {self.kind.__name__}(...), found {found!r}; see "
                "docs/add_a_method.md"
            )
        if name not in (None, found.name):
            raise BiasEnsembleError(f"{where}: expected a {self.word} of that name, found {found.name}")
        return found
