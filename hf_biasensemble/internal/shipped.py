"""Recipes and dataset scripts that ship with the library, found by name from any folder.

In a checkout `configs/` and `dataset_scripts/` are beside the package; a wheel holds them inside it.
"""

import ast
import difflib
import importlib.util
from importlib.resources import files
from pathlib import Path
from types import ModuleType

from hf_biasensemble.internal.errors import BiasEnsembleError


def recipes() -> dict[str, Path]:
    """The YAML file of each recipe by its name, such as `recommended/cmnist`."""
    folder = _folder("configs")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.glob("*/*.yaml"))}


def dataset_scripts() -> dict[str, Path]:
    """The script that makes each dataset by its name, such as `cmnist`."""
    return {file.stem: file for file in sorted(_folder("dataset_scripts").glob("[a-z]*.py"))}


def config_file(name: str) -> Path:
    """The YAML file that `--config` names: a file, or a recipe of ours with or without `configs/` and `.yaml`.

    Raises:
        `BiasEnsembleError`: If it is neither. The message lists recipes of nearly that name, or all.
    """
    path, known = Path(name), recipes()
    if path.exists() and not path.is_dir():  # a pipe is no regular file, but can be read
        return path
    recipe = name.removeprefix("configs/").removesuffix(".yaml")
    if recipe in known:
        return known[recipe]
    near = difflib.get_close_matches(recipe, known, n=3)
    there = f"near it: {', '.join(near)}" if near else f"recipes: {', '.join(known)}"
    raise BiasEnsembleError(
        f"--config {name} could not be read: expected a file or the name of a recipe, found neither; {there}"
    )


def summary_of(file: Path) -> str:
    """The first line of a Python file's docstring, without importing it."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def module_in(file: Path) -> ModuleType:
    """The module in a Python file (`.py`) of no package."""
    spec = importlib.util.spec_from_file_location(f"hf_biasensemble_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _folder(name: str) -> Path:
    package = Path(str(files("hf_biasensemble")))
    return package / name if (package / name).is_dir() else package.parent / name
