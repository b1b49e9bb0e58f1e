"""The short version of `benchmarks/kill_and_resume.py`: real runs, SIGKILLed and resumed."""

import random
import sys
from pathlib import Path

import pytest
from synthetic import coloured_digits

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.kill_and_resume import moments, trial, undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_runs_publish_what_the_undisturbed_run_does(tmp_path, processes):
    data = coloured_digits(tmp_path / "digits")
    expected = undisturbed(data, tmp_path / "undisturbed", processes)
    generator = random.Random(processes)
    kills = 0
    for number, moment in enumerate(moments(generator)):
        found = trial(data, tmp_path / str(number), processes, moment, expected, generator)
        assert not found["different"], f"killed in {moment.name}, at {found['kills']}"
        kills += len(found["kills"])
    assert kills >= 3
