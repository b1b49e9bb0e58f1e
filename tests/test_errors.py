"""How two sets of settings are told apart, and what is said of a package that is not there."""

import ast
import tomllib
from pathlib import Path

import pytest

from hf_biasensemble.internal.errors import differences, missing_package

ROOT = Path(__file__).parents[1]
CODE = [*(ROOT / "hf_biasensemble").rglob("*.py"), *(ROOT / "dataset_scripts").glob("*.py")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_differences_name_each_setting_with_both_values():
    then = {"seed": 4, "threshold": 0.99}
    assert differences(then, dict(then)) == []
    assert differences(then, then | {"seed": 5}) == ["seed (then: 4, now: 5)"]
    assert differences(then, {"seed": 4}) == ["threshold (then: 0.99, now: None)"]
    assert differences(then, then | {"new": 1, "seed": 5}) == ["new (then: None, now: 1)", "seed (then: 4, now: 5)"]
    assert differences(then, {"seed": 5}, ignored={"seed", "threshold"}) == []


# Packages that are not there -----------------------------------------------------------------------------------------


def calls_of_missing_package() -> list[tuple[str, str]]:
    """Package and extra of each call in the code."""
    nodes = [node for file in CODE for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "missing_package"]
    return [(ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1])) for call in named]


def test_message_says_what_installs_the_package_with_and_without_a_checkout():
    assert str(missing_package("onnx", "onnx")) == (
        "expected the package onnx, found none; pip install 'hf_biasensemble[onnx]', "
        "or in a checkout pip install '.[onnx]'"
    )


@pytest.mark.parametrize("package, extra", sorted(calls_of_missing_package()))
def test_extra_that_a_message_names_holds_the_package(package, extra):
    assert any(line.startswith(package) for line in PROJECT["optional-dependencies"][extra])


def test_every_message_on_a_missing_package_is_made_by_the_one_function():
    assert len(calls_of_missing_package()) >= 3
    assert [file.name for file in CODE if "pip install" in file.read_text(encoding="utf-8")] == ["errors.py"]
