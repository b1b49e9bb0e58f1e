"""Recipes and dataset scripts that ship with the library: beside the package in a checkout, inside it in a wheel."""

import ast
import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

from hf_biasensemble.internal.errors import BiasEnsembleError


def recipes() -> dict[str, Path]:
    """The YAML files of the recipes, by names such as `recommended/cmnist`."""
    folder = _folder("configs")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.glob("*/*.yaml"))}


def dataset_scripts() -> dict[str, Path]:
    """The dataset scripts, by names such as `cmnist`."""
    return {file.stem: file for file in sorted(_folder("dataset_scripts").glob("[a-z]*.py"))}


def config_file(name: str) -> Path:
    """The file that `--config` names: a path, or a recipe with or without `configs/` and `.yaml`. Otherwise raises
    `BiasEnsembleError` with the recipes of similar names, or all."""
    path, known = Path(name), recipes()
    if path.exists() and not path.is_dir():  # a pipe is not a regular file, but readable
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
    """Imports a Python file outside any package."""
    spec = importlib.util.spec_from_file_location(f"hf_biasensemble_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _folder(name: str) -> Path:
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name
