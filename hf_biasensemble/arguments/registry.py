"""Methods and selectors by name, from this library, other packages or files of the user."""

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from hf_biasensemble.arguments.descriptors import Method, Selector
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.shipped import module_in

Descriptor = TypeVar("Descriptor", Method, Selector)


class Registry(Mapping[str, Descriptor], Generic[Descriptor]):
    """Descriptors of one kind by name, imported on first use.

    Args:
        kind (`type`): `Method` or `Selector`; a module defines its descriptor as `METHOD` or `SELECTOR`.
        package (`str`): Our package with one module per descriptor; also the entry point group of other packages.
        path (`Iterable[str]`): The folders of the package.
    """

    def __init__(self, kind: type[Descriptor], package: str, path: Iterable[str]):
        self.kind: type[Descriptor] = kind
        self.package, self.path = package, path
        self.word = kind.__name__.lower()
        self._found: dict[str, Descriptor] = {}

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        """Entry points: modules of this library first, then those of other packages."""
        ours = sorted(module.name for module in pkgutil.iter_modules(self.path))
        points = [EntryPoint(name, f"{self.package}.{name}:{self.word.upper()}", self.package) for name in ours]
        points += sorted(entry_points(group=self.package), key=lambda point: point.name)
        return {point.name: point for point in points}

    def __iter__(self) -> Iterator[str]:
        return iter({**self._installed, **self._found})

    def __len__(self) -> int:
        return len({**self._installed, **self._found})

    def __contains__(self, name: object) -> bool:
        return name in self._installed or name in self._found

    def __getitem__(self, name: str) -> Descriptor:
        if name not in self:
            raise BiasEnsembleError(
                f"--{self.word}: expected one of {', '.join(self)}, found {name}; name a file with your own "
                f"{self.word} by --{self.word}_file"
            )
        if name not in self._found:
            found = self._checked(self._installed[name].load(), name)
            if found.name != name:
                raise BiasEnsembleError(f"{name}: expected a {self.word} of that name, found {found.name}")
            self._found[name] = found
        return self._found[name]

    def add(self, descriptor: Descriptor) -> None:
        """Registers a descriptor for this process."""
        if descriptor.name in self._installed:
            raise BiasEnsembleError(f"a {self.word} named {descriptor.name} already exists; rename yours")
        self._found[descriptor.name] = descriptor

    def asked(self, value_of: Callable[[str], Any]) -> Descriptor | None:
        """The descriptor named by `--method` or defined in `--method_file`; `value_of` gives the value of an option,
        or `None`."""
        file, name = value_of(f"{self.word}_file"), value_of(self.word)
        own = self.load_file(str(file)) if file else None
        return self[str(name)] if name else own

    def load_file(self, file: str) -> Descriptor:
        """Runs a Python file that defines `METHOD` or `SELECTOR`, and registers that descriptor."""
        option, path = f"--{self.word}_file {file}", Path(file).expanduser()
        if not path.is_file() or path.suffix != ".py":
            raise BiasEnsembleError(f"{option}: expected a Python file, found none of that name that ends in .py")
        try:
            module = module_in(path)
        except Exception as error:  # anything that user code may raise
            raise BiasEnsembleError(f"{option}: {type(error).__name__}: {error}; fix the file") from error
        found = self._checked(getattr(module, self.word.upper(), None), option)
        self.add(found)
        return found

    def _checked(self, found: object, where: str) -> Descriptor:
        if not isinstance(found, self.kind):
            raise BiasEnsembleError(
                f"{where}: expected {self.word.upper()} = {self.kind.__name__}(...), found {found!r}; see "
                "docs/add_a_method.md"
            )
        return found
