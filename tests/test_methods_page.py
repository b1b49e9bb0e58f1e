"""The page on the methods names every key that a run logs, and no other, and every option with its true default."""

import dataclasses
import json
import re

import pytest
import yaml
from runs import METHODS, ROOT, results, selection_inputs

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments
from hf_biasensemble.arguments.model import DEFAULT_PREPROCESSING
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.models.build import build_members
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

PAGE = (ROOT / "docs" / "methods.md").read_text()
OPTIONS = {
    field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    for method in ALL_METHODS
    for part in ALL_METHODS[method].argument_types(DataArguments)[1:]
    for field in dataclasses.fields(part)
}
OF_METHODS = {
    name
    for method in ALL_METHODS
    for name in ALL_METHODS[method].option_names()
    if name
    not in {
        field.name
        for part in (DataArguments, ModelArguments, DebiasingArguments)
        for field in dataclasses.fields(part)
    }
} - {"audit", "selection_dir"}


def table_rows(text: str, header: str) -> list[list[str]]:
    """Cells of the rows of all tables whose first column has this header."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == header:
            inside = True
        elif inside and not line.startswith("|---"):
            rows.append(cells)
    return rows


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def sections() -> dict[str, str]:
    """Text under each heading of the second level, or of the third where that names a method."""
    parts = re.split(r"^##(?: |# (?=.*\())(.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def logged_keys(method: str) -> list[str]:
    """Keys that the page has for a method: those of all methods, and those of its own section."""
    own = [text for heading, text in sections().items() if method in named(heading)]
    assert len(own) == 1
    keys = [
        key for text in (sections()["Notation"], *own) for row in table_rows(text, "logged") for key in named(row[0])
    ]
    assert len(keys) > 5
    return keys


def check_keys(log_history: list[dict], keys: list[str]) -> None:
    patterns = {key: key.replace("{split}", "(validation|test)").replace("{number}", r"\d+") for key in keys}
    produced = {key for entry in log_history for key in entry}
    unnamed = {key for key in produced if not any(re.fullmatch(pattern, key) for pattern in patterns.values())}
    never = {key for key, pattern in patterns.items() if not any(re.fullmatch(pattern, name) for name in produced)}
    assert (unnamed, never) == (set(), set())


@pytest.mark.parametrize("method", METHODS)
def test_logged_keys_of_a_method(finished, method):
    state = json.loads((finished(method) / "trainer_state.json").read_text())
    check_keys(state["log_history"], logged_keys(method))


def test_logged_keys_of_the_members(digits, tmp_path):
    _, inputs, selection_args, args = selection_inputs(digits, tmp_path, keep_member="best", member_eval_steps=4)
    model_args, splits = inputs.image_args, inputs.images
    members = build_members(model_args, splits["train"].class_names, 3, seed=0)
    evaluated = {"validation": splits["validation"]}
    trainer = BiasEnsembleTrainer(
        members, args, image_transform(model_args), selection_args, splits["train"], evaluated
    )
    trainer.train()
    keys = [key for key in logged_keys("members") if not key.startswith("{split}")]
    check_keys(trainer.state.log_history, keys)


def test_results_of_a_selection(finished):
    kept = {name for name in results(finished("lff_be")) if name.startswith("selection_")}
    assert {name for row in table_rows(PAGE, "result") for name in named(row[0])} == kept


def test_defaults_of_the_options():
    rows = table_rows(PAGE, "option")
    assert len(rows) >= 20
    for option, default, source in rows:
        assert yaml.safe_load(default) == OPTIONS[option.strip("`").removeprefix("--")], option
        assert source
    assert len({row[0] for row in rows}) == len(rows)
    known = {row[0].strip("`").removeprefix("--") for row in rows}
    assert known >= OF_METHODS


def test_every_option_on_the_page_exists_and_takes_the_value_it_is_named_with():
    given = re.findall(r"--(\w+)((?: [\w.]+)*)", " ".join(re.findall(r"`(--[^`]+)`", PAGE)).replace(" --", "\n--"))
    assert len(given) > 30
    for name, values in given:
        assert name in OPTIONS or name in ("q", "batch_size", "momentum"), name
        if values and OPTIONS.get(name, DEFAULT_PREPROCESSING.get(name)) is not None:
            default = {**OPTIONS, **DEFAULT_PREPROCESSING}[name]
            value = yaml.safe_load(values) if not isinstance(default, list) else [float(v) for v in values.split()]
            assert isinstance(value, (int, float)) if isinstance(default, float) else isinstance(value, type(default))


def test_page_is_short_and_its_formulas_are_closed():
    assert len(PAGE.splitlines()) < 340
    for line in PAGE.splitlines():
        assert line.count("$") % 2 == 0, line
        assert line.count("{") == line.count("}"), line
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE):  # a bar in a formula would end the cell
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
