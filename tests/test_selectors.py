"""What every selector must do, those of the library and of installed packages, and one in a file of the user's own."""

import numpy as np
import pytest
from runs import WITH_BIAS_ENSEMBLE, error_line, results, selection_inputs, slow_but, train
from synthetic import coloured_digits

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.judging.members import FILE_NAME as MEMBERS_FILE
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors import SELECTORS

OWN = """
from hf_biasensemble import Selector, SelectorArguments

SELECTOR = Selector(name="own", title="Own", trainer=print, arguments=SelectorArguments)
"""


def selection_of(data, output_dir, selector, **changes) -> Selection:
    found, inputs, selection_args, args = selection_inputs(data, output_dir, selector=selector, **changes)
    return make_selection(found, inputs, selection_args, args)[0]


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("method", slow_but(WITH_BIAS_ENSEMBLE, "lff_be"))
def test_serves_a_method(digits, finished, tmp_path, selector, method):
    assert train(digits, tmp_path / "out", method, selector=selector) == 0
    found, kept = Selection.load(tmp_path / "out" / "selection"), results(tmp_path / "out")
    assert kept["selection_size"] == found.is_selected.sum() and 0 < found.is_selected.sum() < len(found.index)
    assert found.provenance["selector"] == selector
    assert (tmp_path / "out" / "selection" / MEMBERS_FILE).exists() == SELECTORS[selector].judges
    about = SELECTORS[selector].about.partition("{")[0]
    assert about and about in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("selector", SELECTORS)
def test_never_reads_bias_labels_and_a_finished_one_is_reused(digits, tmp_path, selector):
    made = selection_of(digits, tmp_path / "out", selector)
    again = selection_of(digits, tmp_path / "out", selector)
    other = selection_of(coloured_digits(tmp_path / "data", shuffled_bias=True), tmp_path / "other", selector)
    assert made.is_conflicting is not None and not np.array_equal(made.is_conflicting, other.is_conflicting)
    for found in (again, other):
        assert np.array_equal(found.votes, made.votes) and np.array_equal(found.is_selected, made.is_selected)


@pytest.mark.parametrize("selector", SELECTORS)
def test_votes_depend_on_settings_that_sway_them(digits, tmp_path, selector):
    found, inputs, selection_args, args = selection_inputs(digits, tmp_path, selector=selector)
    before = found.settings(inputs.member_args, selection_args, args)
    args.learning_rate, selection_args.selection_dir = 0.1, "elsewhere"
    after = found.settings(inputs.member_args, selection_args, args)
    assert {name for name in before if before[name] != after[name]} == {"learning_rate"}


def test_a_selector_of_ones_own_is_known_for_its_file(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    try:
        with pytest.raises(SystemExit):
            run_command("train", ["--selector_file", str(tmp_path / "own.py"), "--help-all"])
        shown = capsys.readouterr().out
        assert "--selection_dir" in shown and "--member_steps" not in shown
    finally:
        SELECTORS._found.pop("own", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selector": "bias_ensemles"}, "--selector: expected one of bias_ensemble, erm_errors, found bias_ensemles"),
        ({"method": "erm", "selector": "erm_errors"}, "option --selector in the command line has no effect"),
        ({"method": "auto", "selector": "erm_errors"}, "option --selector in the command line has no effect"),
        ({"selector_file": "none.py"}, "--selector_file none.py: expected a Python file, found none"),
        ({"first_stage_steps": 3}, "it belongs to jtt, --selector erm_errors; leave it out"),
        (
            {"selector": "erm_errors", "member_steps": 3},
            "option --member_steps in the command line has no effect with",
        ),
    ],
)
def test_mistakes_are_one_line(digits, tmp_path, capsys, options, message):
    command = {"dataset_name": digits, "output_dir": tmp_path / "out", "method": "lff_be"} | options
    assert run_command("train", [f"--{name}={value}" for name, value in command.items()]) != 0
    assert message in error_line(capsys)
    assert not (tmp_path / "out").exists()
