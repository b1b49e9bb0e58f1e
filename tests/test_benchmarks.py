"""That the benchmarks run, and that contenders are compared as their table says; nothing is timed here."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import on_gpu
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.measuring import Figure, markdown, measure


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in BENCHMARKS] + ["tables"])
def test_benchmark_runs_and_leaves_its_rows(tmp_path, capsys, name):
    assert main([name, "--quick", "--output", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) > 2 and any(row["ratio"] for row in rows)
    printed = capsys.readouterr().out
    for row in rows:
        assert row["benchmark"] == name and row["torch"] and row["commit"] and row["median"] in row["values"]
        assert f"| {row['figure']} | {row['contender']} |" in printed


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_only_gpus_can_show_says_so_and_the_rest_passes(capsys):
    assert on_gpu.main() == 0
    _, *lines = capsys.readouterr().out.splitlines()
    said = {line.name: text.partition(": ")[2] for line, text in zip(on_gpu.LINES, lines, strict=True)}
    for line in on_gpu.LINES:
        assert said[line.name].startswith(f"needs {line.gpus} GPU" if line.gpus else "pass; "), said[line.name]


def test_contenders_take_turns_and_a_ratio_is_one_of_medians():
    turns: list[str] = []
    values = {"slow": iter([100.0, 4.0, 6.0, 50.0]), "fast": iter([100.0, 2.0, 1.0, 3.0])}

    def contender(name: str):
        def work() -> float:
            turns.append(name)
            return next(values[name])

        return work

    figure = Figure("it", "s", {name: contender(name) for name in values}, reference="slow")
    slow, fast = measure(figure, repeats=3)
    assert turns == ["slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow"]
    assert slow.values == [4.0, 6.0, 50.0] and fast.values == [2.0, 1.0, 3.0]  # the warm-up does not count
    assert fast.ratio == 2 / 6 and fast.ratios == [0.5, 1 / 6, 3 / 50] and slow.ratio is None
    assert "| it | fast | 2 s (1 to 3) | 0.333 x slow (0.06 to 0.5) |" in markdown([slow, fast], {})
