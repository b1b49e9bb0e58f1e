"""That the benchmarks run, and that contenders are compared as their table says; nothing is timed here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import words

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import larger_than_memory, many_samples, on_gpu, verdicts
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.measuring import ROOT, Figure, environment, markdown, measure


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


@pytest.mark.slow
def test_first_batch_is_timed_in_a_process_of_its_own(digits, tmp_path):
    given = words(digits, tmp_path / "out", "erm")
    program = [sys.executable, "-m", "benchmarks.first_batch", *given]
    ended = subprocess.run(program, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0 and "process 0: " in ended.stdout, ended.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()  # it ended there


@pytest.mark.slow
def test_memory_of_a_run_is_told_for_each_stage(capsys):
    words = "--samples 2000 --classes 10 --held_out 500 --steps 60 --batch_size 64"
    assert many_samples.main(words.split()) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == [*(title for _, _, title in many_samples.STAGES), "the whole run"]
    for _, before, most, _ in rows[2:]:
        assert 100 < float(before.replace(",", "")) <= float(most.replace(",", ""))


@pytest.mark.slow
@pytest.mark.skipif(not os.access(larger_than_memory.GROUPS / "cgroup.procs", os.W_OK), reason="needs cgroup v1")
def test_training_has_a_limit_of_memory_and_stays_below_it(tmp_path, capfd):
    words = "--store 100MB --limit 1.5GB --steps 2 --folder"
    assert larger_than_memory.main([*words.split(), str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert "2 steps of 16 images" in said and "exit status 0" in said
    assert 0.1 < float(said.partition("GB at most ")[2].partition(",")[0]) <= 1.5


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


def test_simulated_verdicts_are_counted(capsys):
    verdicts.main("--images 10 50 --seeds 1 3 --repeats 20".split())
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 8 and all(float(share) <= 25 for row in rows for share in row[3:])
