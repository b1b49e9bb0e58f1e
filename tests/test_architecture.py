"""The modules import each other in the order of the table in docs/architecture.md, and the libraries that it names."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_biasensemble"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def table_of_modules() -> list[tuple[list[str], set[str]]]:
    """Each row of the table, lowest first: its files and folders, and the libraries that it may import."""
    table = re.search(r"^\| module \| what it is for \| libraries \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
    return [(re.findall(r"`([^`]+)`", modules), set(re.findall(r"\w+", libraries))) for modules, _, libraries in rows]


TABLE = table_of_modules()
MODULES = sorted({path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} - {"__init__.py"})


def is_in(file: str, modules: list[str]) -> bool:
    """Whether a file of the package is one of the modules, or in one of them."""
    return bool({file, f"{file.split('/')[0]}/"} & set(modules))


def row_of(file: str) -> int:
    """Which row of the table a file of the package belongs to."""
    rows = [number for number, (modules, _) in enumerate(TABLE) if is_in(file, modules)]
    assert rows, f"{file} is in no module of docs/architecture.md"
    return rows[0]


def imports_of(file: str) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by a relative name"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files_of(names: set[str]) -> set[str]:
    """The files of the package among imported names."""
    paths = {name.partition(".")[2].replace(".", "/") for name in names if name.startswith(f"{PACKAGE.name}.")}
    return {f"{path}{ending}" for path in paths for ending in (".py", "/__init__.py")} & set(MODULES)


@pytest.mark.parametrize("file", MODULES)
def test_imports_go_one_way(file):
    above = {name for name in files_of(imports_of(file)) if row_of(name) > row_of(file)}
    assert not above, f"{file} imports from modules below its own row of the table: {', '.join(sorted(above))}"


@pytest.mark.parametrize("modules, libraries", TABLE, ids=[modules[0] for modules, _ in TABLE])
def test_libraries_are_those_of_the_table(modules, libraries):
    imported = {name.split(".")[0] for file in MODULES if is_in(file, modules) for name in imports_of(file)}
    assert imported - {*sys.stdlib_module_names, PACKAGE.name} == libraries


def test_only_selectors_and_methods_know_a_trainer_by_name():
    importing = {file for file in MODULES if any(name.startswith("trainers/") for name in files_of(imports_of(file)))}
    modules = {file.split("/")[0] for file in importing}
    assert modules == {"trainers", "selectors", "methods", "runs", "public.py"}
    # The run itself asks of the trainers' module only what it asks whatever the method.
    assert {name for name in files_of(imports_of("runs/run.py")) if name.startswith("trainers/")} == {
        "trainers/checkpoint_choice.py"
    }


def test_a_method_touches_one_file():
    """Nothing outside `methods/` knows a method by name: not in code, nor by how its name begins or ends."""
    names = [path.stem for path in (PACKAGE / "methods").glob("*.py") if path.stem != "__init__"]
    assert len(names) >= 8
    for file in MODULES:
        code = (PACKAGE / file).read_text(encoding="utf-8")
        if not file.startswith("methods/"):
            strings = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
            assert not strings & (set(names) - ALLOWED.get(file, set())), file
        assert not re.search(r"(startswith|endswith)\([^)]*(lff|disent|_be)", code), file


# The default method, the two whose checkpoints the authors' code writes, and a layout that is found by itself.
ALLOWED = {
    "arguments/data.py": {"auto"},
    "arguments/training.py": {"lff_be"},
    "models/reference_checkpoint.py": {"lff", "disent"},
    "cli/import_reference.py": {"lff", "disent"},
    # A layout that is found out, and an axis of a figure: the everyday word.
    **dict.fromkeys(
        ("arguments/data.py", "data/reading/plan.py", "data/loading.py", "reporting/figures/groups.py"), {"auto"}
    ),
}


def test_every_module_of_the_table_is_there():
    modules = [module for named, _ in TABLE for module in named]
    assert len(modules) > 12
    assert [module for module in modules if not (PACKAGE / module).exists()] == []
