"""Sweeps: real processes for the runs, hand-made cells for the tables."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fresh_python import environment
from PIL import Image
from runs import SETTINGS, common_settings, content, error_line, results

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.cli.sweep import _parse, make_plan
from hf_biasensemble.reporting.sweep.cell import Cell
from hf_biasensemble.reporting.sweep.sweep_table import write_sweep_tables
from hf_biasensemble.selection import Selection

TABLES = ("table.md", "table.csv", "cells.csv", "table.png")


def sweep_words(data: Path, output_dir: Path, methods: str, seeds: str = "0", **changes) -> list[str]:
    settings = {"dataset_name": data, **common_settings(*methods.split()), **changes}
    own = [*"sweep --methods".split(), *methods.split(), "--seeds", *seeds.split(), "--output_dir", str(output_dir)]
    return [*own, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def sweep(*args, **changes) -> int:
    return run_command("sweep", sweep_words(*args, **changes)[1:])


@pytest.fixture(scope="module")
def finished_sweep(digits, tmp_path_factory):
    """Two methods that share their selection, two seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("sweep") / "out"
    assert sweep(digits, folder, "lff lff_be disent_be erm", jobs=2) == 0
    return folder


@pytest.fixture
def copied(finished_sweep, tmp_path):
    return shutil.copytree(finished_sweep, tmp_path / "out")


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.mark.slow
def test_each_run_has_a_folder_and_the_tables_their_figures(finished_sweep):
    with open(finished_sweep / "cells.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["data"], row["method"], row["seed"]) for row in rows] == [
        ("default", method, "0") for method in ("lff", "lff_be", "disent_be", "erm")
    ]
    for row in rows:
        folder = finished_sweep / "default" / row["method"] / "seed_0"
        assert yaml.safe_load((folder / "config.yaml").read_text())["method"] == row["method"]
        for metric in ("accuracy", "aligned_accuracy", "conflicting_accuracy"):
            assert float(row[metric]) == 100 * results(folder)[f"test_{metric}"]


@pytest.mark.slow
def test_cards_show_erm_beside(finished_sweep):
    runs = finished_sweep / "default"
    accuracy = 100 * results(runs / "erm" / "seed_0")["test_accuracy"]
    row = f"| test, `erm` on the same data for comparison | {accuracy:.1f} ("
    assert row in (runs / "lff_be" / "seed_0" / "README.md").read_text()
    assert "for comparison" not in (runs / "erm" / "seed_0" / "README.md").read_text()


@pytest.mark.slow
def test_methods_share_a_selection_that_is_made_once(finished_sweep):
    shared = list((finished_sweep / "default" / "selections").glob("seed_0_*/selection.parquet"))
    assert len(shared) == 1
    runs = [finished_sweep / "default" / method / "seed_0" for method in ("lff_be", "disent_be")]
    assert not any("selection_runtime" in results(run) for run in runs)  # the members were trained before all runs
    assert {(run / "selection" / "selection.parquet").read_bytes() for run in runs} == {shared[0].read_bytes()}
    assert len({results(run)["selection_size"] for run in runs}) == 1
    assert Selection.load(shared[0].parent).is_selected.sum() == results(runs[0])["selection_size"]


def test_only_runs_whose_members_are_alike_share_a_selection(digits, tmp_path):
    def folder_for(method: str, seed: int = 0, **changes) -> str:
        asked, overrides = _parse(sweep_words(digits, tmp_path, method, **changes)[1:])
        words = make_plan(asked, overrides, method, "default", seed).words
        return words[words.index("--selection_dir") + 1]

    shared = folder_for("lff_be")
    assert folder_for("disent_be") == shared
    assert folder_for("lff_be", max_steps=5, checkpoint_choice="oracle_test", loss_average_decay=0.5) == shared
    assert folder_for("lff_be", learning_rate=0.5, member_learning_rate=SETTINGS["learning_rate"]) == shared
    others = [{"member_steps": 31}, {"learning_rate": 0.01}, {"image_size": 14}, {"weight_decay": 0.1}]
    folders = {folder_for("lff_be", **change) for change in others} | {folder_for("lff_be", seed=1)}
    assert shared not in folders and len(folders) == 5


@pytest.mark.slow
def test_sweep_killed_in_the_middle_ends_with_the_same_tables(copied, digits, capsys):
    before = tables(copied)
    untouched = content(copied / "default" / "lff_be")
    shutil.rmtree(copied / "default" / "disent_be")  # not begun
    killed = copied / "default" / "lff" / "seed_0"  # killed after its second checkpoint
    for path in killed.iterdir():
        if path.name not in ("config.yaml", "checkpoint-5", "checkpoint-10", "train.log"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in TABLES:
        (copied / name).unlink()
    assert sweep(digits, copied, "lff lff_be disent_be erm") == 0
    assert tables(copied) == before
    assert content(copied / "default" / "lff_be") == untouched
    said = capsys.readouterr().out
    assert "default lff_be seed 0: was finished before" in said and "4 of 4 runs finished" in said


@pytest.mark.slow
def test_failed_run_is_reported_and_the_others_go_on(copied, digits, capsys):
    shutil.rmtree(copied / "default" / "disent_be")
    foreign = copied / "default" / "lff" / "seed_0"
    (foreign / "all_results.json").unlink()
    (foreign / "config.yaml").unlink()
    assert sweep(digits, copied, "lff disent_be") == 1
    said = capsys.readouterr().out
    assert "default lff seed 0: FAILED with exit status 2 (error: --output_dir" in said
    assert "1 of 2 runs finished" in said
    table = (copied / "table.md").read_text()
    assert "## Without a result\n\n- default lff seed 0: FAILED" in table and "| default | disent_be | 0 |" in table


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"leaning_rate": 0.1}, "unknown option --leaning_rate in the command line; did you mean learning_rate?"),
        ({"learning_rate": -1}, "--learning_rate: expected above 0, found -1.0"),
        ({"seed": 1}, "--seed cannot be given to a sweep"),
        ({"jobs": 0}, "--jobs: expected at least 1, found 0"),
        ({"config": "nowhere/{method}.yaml"}, "--config nowhere/lff.yaml could not be read"),
    ],
)
def test_mistakes_show_before_anything_runs(digits, tmp_path, capsys, changes, said):
    assert sweep(digits, tmp_path / "out", "lff", **changes) == 2
    assert said in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_method_that_nobody_knows_and_doubles_are_refused(digits, tmp_path, capsys):
    assert sweep(digits, tmp_path / "out", "lff lfff") == 2
    assert "--method: expected one of auto, disent, disent_be, erm" in error_line(capsys)
    assert sweep(digits, tmp_path / "out", "lff", seeds="0 1 0") == 2
    assert "--seeds: expected different values, found 0 1 0" in error_line(capsys)


@pytest.mark.slow
def test_finished_run_with_other_settings_is_refused(finished_sweep, digits, capsys):
    before = content(finished_sweep)
    assert sweep(digits, finished_sweep, "lff", learning_rate=0.1) == 2
    assert "holds a run with other settings: learning_rate (then: 0.003, now: 0.1)" in error_line(capsys)
    assert content(finished_sweep) == before


@pytest.mark.slow
def test_runs_on_different_images_are_not_put_side_by_side(copied, digits, capsys):
    config = copied / "default" / "lff_be" / "seed_0" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(settings | {"train_fingerprint": "of other images"}))
    assert sweep(digits, copied, "lff lff_be") == 2
    assert "expected all runs of default on the same training images, found others in" in error_line(capsys)


# Tables --------------------------------------------------------------------------------------------------------------


def cell(method: str, seed: int, conflicting: float, chosen: dict | None = None, choice: str = "last") -> Cell:
    last_step = {"aligned_accuracy": 90.0, "conflicting_accuracy": conflicting, "last_five_accuracy": 50.0}
    return Cell("1pct", method, seed, last_step, chosen or {}, choice)


def test_table_holds_mean_spread_and_paired_gains(tmp_path):
    cells = [cell("lff", 0, 40), cell("lff", 1, 50), cell("lff_be", 0, 45), cell("lff_be", 1, 49)]
    cells += [cell("disent_be", 0, 60)]
    text = write_sweep_tables(cells, tmp_path, baselines={"lff_be": "lff", "disent_be": "disent", "lff": "erm"})
    assert "| 1pct | lff | 0, 1 | 90.0 ± 0.0 | 45.0 ± 7.1 | 50.0 ± 0.0 |" in text
    assert "| 1pct | disent_be | 0 | 90.0 | 60.0 | 50.0 |" in text
    line = "| 1pct | lff_be | lff | bias-conflicting | seed 0: +5.0, seed 1: -1.0 | +2.0 ± 4.2 | in 1 of 2 seeds |"
    assert line in text
    assert "| 1pct | lff_be | lff | bias-aligned | seed 0: +0.0, seed 1: +0.0 | +0.0 ± 0.0 | in no seed |" in text
    assert "| 1pct | disent_be | disent" not in text  # nothing to pair it with
    with open(tmp_path / "table.csv", newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert float(rows["lff"]["conflicting_accuracy_mean"]) == 45
    assert float(rows["lff"]["conflicting_accuracy_sd"]) == pytest.approx(50**0.5)
    assert rows["disent_be"]["conflicting_accuracy_sd"] == ""
    picture = Image.open(tmp_path / "table.png").convert("RGB")
    assert picture.width > 500 and len(picture.getcolors(1 << 24)) > 10


def test_gain_in_every_seed_is_said_and_one_seed_says_little(tmp_path):
    cells = [cell("disent", 0, 40), cell("disent", 1, 50), cell("disent_be", 0, 41), cell("disent_be", 1, 60)]
    pairs = {"disent_be": "disent"}
    text = write_sweep_tables(cells, tmp_path, baselines=pairs)
    assert "seed 0: +1.0, seed 1: +10.0 | +5.5 ± 6.4 | in every seed |" in text
    text = write_sweep_tables([cells[0], cells[2]], tmp_path, baselines=pairs)
    assert "seed 0: +1.0 | +1.0 | one seed only |" in text


def test_chosen_step_stands_after_the_last_and_is_marked(tmp_path):
    chosen = {"aligned_accuracy": 80.0, "conflicting_accuracy": 70.0}
    text = write_sweep_tables([cell("lff", 0, 40, chosen, "oracle_test")], tmp_path)
    assert text.index("## Last step") < text.index("## Published step (oracle, chosen on the test set)")
    assert "| 1pct | lff | 0 | 80.0 | 70.0 |" in text and "| 1pct | lff | 0 | 90.0 | 40.0 | 50.0 |" in text


def test_data_without_bias_labels_has_a_table(tmp_path):
    text = write_sweep_tables(
        [Cell("own", "erm", 0, {"accuracy": 75.0, "last_five_accuracy": 70.0}, {}, "last")], tmp_path
    )
    assert "| own | erm | 0 | 75.0 | 70.0 |" in text
    assert "bias" not in text.splitlines()[4]


@pytest.mark.slow
def test_sweep_that_is_really_killed_ends_with_the_same_tables(finished_sweep, digits, tmp_path):
    folder = tmp_path / "out"
    words = [sys.executable, "-m", "hf_biasensemble", *sweep_words(digits, folder, "lff lff_be disent_be erm")]
    variables = environment(tmp_path)
    for method, file in (("lff_be", "config.yaml"), ("disent_be", "checkpoint-5/trainer_state.json")):
        process = subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, start_new_session=True)
        waited_for = folder / "default" / method / "seed_0" / file
        while not waited_for.exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() != 0
    assert subprocess.run(words, env=variables, stdout=subprocess.DEVNULL).returncode == 0
    assert tables(folder) == tables(finished_sweep)
