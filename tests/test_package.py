"""What the package says of itself, and what it needs: version, extras, licence."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from fresh_python import fresh_python

import hf_biasensemble
from hf_biasensemble.internal.errors import missing_package

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHOUT_EVALUATE = """
import sys
sys.modules["evaluate"] = None
import hf_biasensemble, hf_biasensemble.runs.run, hf_biasensemble.cli.predict, hf_biasensemble.evaluation.classifier
print(hf_biasensemble.bias_accuracy.__name__)
try:
    import hf_biasensemble.evaluation.bias_accuracy.bias_accuracy
except ValueError as error:
    print(error)
"""


REGISTERED = """
import hf_biasensemble
from transformers import AutoConfig
print(type(AutoConfig.for_model("debiased_image_classifier")) is hf_biasensemble.DebiasedImageClassifierConfig)
"""
SHADOWED = """
import importlib, pkgutil, types
import hf_biasensemble
before = {name: getattr(hf_biasensemble, name) for name in hf_biasensemble.__all__}
modules = [module.name for module in pkgutil.walk_packages(hf_biasensemble.__path__, "hf_biasensemble.")]
for name in modules:
    if name not in ("hf_biasensemble.__main__", "hf_biasensemble.evaluation.bias_accuracy.bias_accuracy"):
        importlib.import_module(name)
found = {name: getattr(hf_biasensemble, name) for name in before}
print(sorted(name for name in found if found[name] is not before[name] or isinstance(found[name], types.ModuleType)))
for package in {name.rpartition(".")[0] for name in modules}:
    public = getattr(importlib.import_module(package), "__all__", [])
    print(sorted(name for name in public if f"{package}.{name}" in modules), end="")
print()
from hf_biasensemble import run
print(callable(run))
"""
OWN_METHOD = """
from hf_biasensemble import {names}
METHOD = Method(name="own", title=run.__name__, trainer=ErmTrainer, network=classifier_alone)
"""


def test_importing_the_package_registers_its_model(tmp_path):
    done = fresh_python("-c", REGISTERED, cwd=tmp_path)
    assert done.stdout == "True\n", done.stderr


def test_no_public_name_is_shadowed_by_a_module(tmp_path):
    assert "run" in hf_biasensemble.__all__ and len(hf_biasensemble.__all__) > 40
    done = fresh_python("-c", SHADOWED, cwd=tmp_path)
    shadowed, in_packages, is_function = done.stdout.splitlines()
    assert (shadowed, set(in_packages) - set("[]"), is_function) == ("[]", set(), "True"), done.stdout + done.stderr


LIBRARIES = {"datasets", "mlxtend", "pandas", "pyarrow", "timm", "torch", "transformers"}


@pytest.mark.parametrize(
    "words, needed",
    [
        (["--help"], set()),
        (["--version"], set()),
        (["make-dataset", "cmnist", "--help"], set()),
        (["sweep", "--help"], {"pyarrow", "torch", "transformers"}),
    ],
)
def test_command_line_imports_what_the_command_needs(words, needed, tmp_path):
    done = fresh_python("-X", "importtime", "-m", "hf_biasensemble", *words, cwd=tmp_path)
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert done.returncode == 0 and "hf_biasensemble.cli.main" in imported
    assert LIBRARIES & imported <= needed


@pytest.mark.parametrize("names", ["ErmTrainer, Method, classifier_alone, run", "*"])
def test_a_method_file_imports_from_the_package_in_the_command_line_too(names, tmp_path):
    (tmp_path / "own.py").write_text(OWN_METHOD.format(names=names), encoding="utf-8")
    done = fresh_python("-m", "hf_biasensemble", "train", "--method_file", "own.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "Options of --method own;" in done.stdout, done.stderr


def test_version_stands_in_one_place():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    assert hf_biasensemble.__version__ in (ROOT / "hf_biasensemble" / "__init__.py").read_text(encoding="utf-8")


def test_pythons_are_those_that_are_tested():
    versions = [line.split()[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert f"python: {json.dumps(versions)}" in workflow


@pytest.mark.slow
def test_library_works_without_evaluate():
    done = subprocess.run([sys.executable, "-c", WITHOUT_EVALUATE], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["bias_accuracy", str(missing_package("evaluate", "evaluate"))], done.stderr
    assert not any(line.startswith("evaluate") for line in PROJECT["dependencies"])


def test_licence_is_the_plain_text_and_the_credits_come_along():
    licence, notice = ((ROOT / name).read_text(encoding="utf-8") for name in PROJECT["license-files"])
    assert licence.rstrip().endswith("OTHER DEALINGS IN THE\nSOFTWARE.") and "arXiv" not in licence
    assert all(paper in notice for paper in ("2205.14594", "2007.02561", "2107.01372"))


def test_workflows_ask_for_goals_that_the_makefile_has():
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = set()
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values():
            asked |= {step["run"].removeprefix("make ") for step in job["steps"] if "run" in step}
    assert len(asked) > 6 and asked <= goals


def ci_run(folder: Path, failing: str = "") -> tuple[int, list[str]]:
    """Exit status of `.ci/run` with a `make` that only notes the goals and fails at one; the goals."""
    make = folder / "make"
    make.write_text('#!/bin/sh\necho "$1" >> "$GOALS"\ntest "$1" != "$FAILING"\n', encoding="utf-8")
    make.chmod(0o755)
    variables = {"PATH": f"{folder}:{os.environ['PATH']}", "GOALS": str(folder / "goals"), "FAILING": failing}
    done = subprocess.run([ROOT / ".ci" / "run"], env={**os.environ, **variables}, cwd=folder, capture_output=True)
    return done.returncode, (folder / "goals").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("failing", ["quality", "test", "test-slow"])
def test_a_goal_that_fails_ends_all_checks(tmp_path, failing):
    status, goals = ci_run(tmp_path, failing)
    assert status != 0 and goals[-1] == failing


def test_all_checks_are_all_goals_that_check(tmp_path):
    status, goals = ci_run(tmp_path)
    known = re.findall(
        r"^((?:test|quality|docs)[a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert status == 0 and sorted(goals) == sorted(known)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\nmake test " in readme and "test" in goals


def test_changelog_has_what_is_unreleased_on_top_and_a_date_for_the_rest():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]" and headings[1].startswith(f"[{hf_biasensemble.__version__}] - ")
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:])


def test_software_is_cited_with_the_papers_of_the_notice():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["license"] == PROJECT["license"] and cited["authors"] == PROJECT["authors"]
    released = f"## [{cited['version']}] - {cited['date-released']}"
    assert cited["version"] == hf_biasensemble.__version__
    assert released in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    numbers = [reference["url"].split("/")[-1] for reference in cited["references"]]
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert sorted(numbers) == sorted(re.findall(r"arXiv (\S+)", notice))
