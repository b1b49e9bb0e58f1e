"""Several processes, and accumulated batches, give the run that one process gives with one batch."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from runs import (
    ROOT,
    distance,
    largest_log_difference,
    launch,
    slow_but,
    start,
    train,
    train_only_members,
    weights,
    words,
)
from safetensors.torch import load_file
from synthetic import coloured_digits

from hf_biasensemble.methods import METHODS

# 97 images: batches of 24 leave one over, so an epoch ends with a batch that processes must fill up.
CASES: dict[str, dict] = {
    "disent_be": {
        "method": "disent_be",
        "dataloader_drop_last": "false",
        "crop_padding": 1,
        "horizontal_flip": "true",
        "member_steps": 60,
        "swap_start_step": 3,
    },
    "drawn": {
        "method": "lff_be",
        "conflicting_share": 0.25,
        "keep_member": "best",
        "member_eval_steps": 29,
        "share_batches": "true",
        "checkpoint_choice": "validation_accuracy",
    },
    "lff": {"method": "lff", "dataloader_drop_last": "false", "weight_average": 0.9, "augmentation": "affine"},
    "erm": {"method": "erm", "dataloader_drop_last": "false", "logging_steps": 5},
    "jtt": {"method": "jtt", "dataloader_drop_last": "false"},
    "group_dro_be": {"method": "group_dro_be", "dataloader_drop_last": "false", "group_step_size": 0.3},
    "logit_adjusted": {"method": "logit_adjusted", "dataloader_drop_last": "false", "cross_fit": "true"},
    "product_of_experts": {"method": "product_of_experts", "balance_members": "true"},
    "last_layer_be": {"method": "last_layer_be", "dataloader_drop_last": "false"},
}
QUICK = ("disent_be", "drawn", "lff", "erm")  # the rest has less that processes could do otherwise
GLOBAL_BATCH = 24
SEVERAL = [2, pytest.param(3, marks=pytest.mark.slow)]
# The member stage by itself, and the step at which several processes end and are started again.
MEMBER_CASES: dict[str, tuple[dict, int]] = {
    "own_batches": ({"crop_padding": 1, "horizontal_flip": "true", "max_grad_norm": 0.05}, 17),
    "shared_batches": (
        {
            "crop_padding": 1,
            "share_batches": "true",
            "keep_member": "best",
            "member_eval_steps": 4,
            "member_steps": 10,
        },
        7,
    ),
    # With three processes, one has no member of its own.
    "two_members": ({"num_members": 2, "member_agreement": 1, "gradient_accumulation_steps": 2, "crop_padding": 1}, 9),
    "batch_normalisation": ({"backbone": "test_resnet", "image_size": 32, "member_steps": 6}, 3),
    "not_saved": ({"save_strategy": "no", "member_steps": 5}, 3),
}


@pytest.fixture(scope="module")
def odd_digits(tmp_path_factory):
    return coloured_digits(tmp_path_factory.mktemp("odd"), num_train=97, num_validation=33, num_test=50)


@pytest.fixture(scope="module")
def by_processes(odd_digits, tmp_path_factory):
    """Gives the folder of runs by one process and by so many, each started once: of the quick cases and the member
    stages or, `further`, of the other cases."""
    folder = tmp_path_factory.mktemp("processes")

    def settings(processes: int, name: str) -> dict:
        # Adam divides gradients by their size, rounding errors as well, unless epsilon is above these.
        changes = {"adam_epsilon": 1e-4, "logging_steps": 1, **CASES[name]}
        if processes > 1 and METHODS[changes["method"]].starts_from:
            changes["init_from"] = folder / f"{name}_1_start"  # which `train` has made
        return {"per_device_train_batch_size": GLOBAL_BATCH // processes, **changes}

    def member_stages(processes: int, name: str) -> list[tuple[str, str, dict]]:
        changes, stop = MEMBER_CASES[name]
        changes = {"dataloader_drop_last": "false", "logging_steps": 1, "learning_rate": 0.01, **changes}
        changes |= {"per_device_train_batch_size": GLOBAL_BATCH // processes}
        in_turn = [{}] if processes == 1 else [{"member_steps": stop}, {"resume_from_checkpoint": "true"}]
        return [(str(odd_digits), str(folder / f"{name}_{processes}"), changes | more) for more in in_turn]

    alone: set[bool] = set()
    started: dict[tuple[int, bool], subprocess.CompletedProcess] = {}

    def by_processes(processes: int, further: bool = False) -> Path:
        cases = [name for name in CASES if (name not in QUICK) == further]
        stages = [] if further else list(MEMBER_CASES)
        if further not in alone:
            alone.add(further)
            for name in cases:
                assert train(odd_digits, folder / f"{name}_1", **settings(1, name)) == 0
            for name in stages:
                train_only_members(*member_stages(1, name)[0])
        key = processes, further
        if key not in started:
            file = folder / f"commands_{processes}_{further}.json"
            whole = [words(odd_digits, folder / f"{name}_{processes}", **settings(processes, name)) for name in cases]
            members = [stage for name in stages for stage in member_stages(processes, name)]
            file.write_text(json.dumps({"whole": whole, "members": members}))
            done = started[key] = launch(processes, file, script=ROOT / "tests" / "runs.py")
            (folder / f"output_{processes}_{further}").write_text(done.stdout + done.stderr)
        assert started[key].returncode == 0, started[key].stderr[-3000:]
        return folder

    return by_processes


@pytest.mark.parametrize("processes", SEVERAL)
@pytest.mark.parametrize("name", slow_but(CASES, *QUICK))
def test_processes_give_the_run_of_one(by_processes, name, processes):
    folder = by_processes(processes, name not in QUICK)
    one, several = folder / f"{name}_1", folder / f"{name}_{processes}"
    assert distance(one / "model.safetensors", several / "model.safetensors") < 1e-5
    assert largest_log_difference(one, several) < 1e-5
    for step in (5, 10, 12):
        for file in sorted((one / f"checkpoint-{step}").glob("*.safetensors")):
            assert distance(file, several / file.parent.name / file.name) < 1e-5, file
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (one, several)]
    assert results[0]["train_loss"] == pytest.approx(results[1]["train_loss"], abs=1e-5)


@pytest.mark.parametrize("processes", SEVERAL)
@pytest.mark.parametrize("name", ["disent_be", "drawn"])
def test_selections_are_equal(by_processes, name, processes):
    folder = by_processes(processes)
    one, several = (
        pq.read_table(folder / f"{name}_{count}" / "selection" / "selection.parquet") for count in (1, processes)
    )
    assert one["votes"].equals(several["votes"])
    assert one["is_selected"].equals(several["is_selected"])
    assert 0 < sum(one["is_selected"].to_pylist()) < 97


@pytest.mark.parametrize("processes", SEVERAL)
@pytest.mark.parametrize("name", sorted(MEMBER_CASES.keys() - {"not_saved"}))
def test_members_are_bitwise_those_of_one_process(by_processes, name, processes):
    """With the small epsilon of the published recipes, and started again in the middle."""
    folder = by_processes(processes)
    one, several = (folder / f"{name}_{count}" / "selection" for count in (1, processes))
    (checkpoint,) = one.glob("checkpoint-*")
    again = several / checkpoint.name
    assert [path.name for path in several.glob("checkpoint-*")] == [again.name]
    for file in checkpoint.glob("*.safetensors"):
        assert distance(file, again / file.name) == 0, file
    states = [torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in (checkpoint, again)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(state[key], states[1][number][key]) for key in state)
    # Their losses are only logged: sums over a table (B, M) of fewer columns have another last bit.
    logs = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (checkpoint, again)]
    assert [entry.keys() for entry in logs[0]] == [entry.keys() for entry in logs[1]]
    assert sum(entry.keys() >= {"loss", "loss_member_0", "loss_member_1"} for entry in logs[0]) > 5
    for entry, other in zip(*logs, strict=True):
        assert entry == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("processes", SEVERAL)
@pytest.mark.parametrize("name", MEMBER_CASES)
def test_votes_of_these_members_are_bitwise_those_of_one_process(by_processes, name, processes):
    folder = by_processes(processes)
    one, several = (folder / f"{name}_{count}" / "selection" for count in (1, processes))
    assert pq.read_table(one / "selection.parquet").equals(pq.read_table(several / "selection.parquet"))


@pytest.mark.parametrize("processes", SEVERAL)
def test_tables_hold_each_sample_once(by_processes, processes):
    """Samples that fill the last batch up are in no table before their turn."""
    folder = by_processes(processes) / f"disent_be_{processes}"
    tables = load_file(folder / "checkpoint-5" / "sample_losses.safetensors")
    assert int(tables["seen"].sum()) == 97  # five steps: one epoch
    assert (tables["averages"][tables["seen"]] > 0).all()


@pytest.mark.parametrize("processes", SEVERAL)
def test_warnings_and_progress_are_printed_once(by_processes, processes):
    output = (by_processes(processes) / f"output_{processes}_False").read_text()
    assert output.count("warning: --conflicting_share without --augmentation") == 1
    part = r" .*\n +step .*\n(?: +\d+ .*\n)+"  # each time that the headings change
    tables = re.findall(rf"^Training erm\n((?:{part})+)", output, re.MULTILINE)
    rows = re.findall(r"^ +(\d+) ", "".join(tables), re.MULTILINE)
    assert rows == ["4", "8", "12"], output


def test_another_number_of_processes_is_refused(by_processes, odd_digits, capsys):
    folder = by_processes(2) / "lff_2"
    before = weights(folder)
    changes = {**CASES["lff"], "per_device_train_batch_size": 12, "adam_epsilon": 1e-4}
    assert train(odd_digits, folder, **changes, resume_from_checkpoint="true") == 2
    assert "expected a checkpoint of 1 process, found one of 2" in capsys.readouterr().err
    assert weights(folder) == before


@pytest.mark.slow
def test_failing_process_ends_all_and_the_last_checkpoint_goes_on(by_processes, odd_digits, tmp_path):
    settings = {**CASES["lff"], "per_device_train_batch_size": 12, "adam_epsilon": 1e-4}
    command = words(odd_digits, tmp_path / "out", **settings)
    began = time.monotonic()
    failed = launch(2, *command, script=ROOT / "tests" / "failing_process.py")
    assert failed.returncode != 0
    assert time.monotonic() - began < 60
    assert "MemoryError: the second process has had enough" in failed.stderr
    assert not (tmp_path / "out" / "all_results.json").exists()
    resumed = launch(2, *command, "--resume_from_checkpoint", "true", script=ROOT / "tests" / "leaving_process.py")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert resumed.stdout.count("threads of the process group: 0") == 2
    undisturbed = by_processes(2) / "lff_2"
    assert weights(tmp_path / "out") == weights(undisturbed)
    assert (tmp_path / "out" / "history.csv").read_bytes() == (undisturbed / "history.csv").read_bytes()


@pytest.mark.slow
def test_processes_told_to_end_save_together_and_go_on(odd_digits, tmp_path):
    """A cluster sends SIGTERM to the launcher, which passes it on to all processes."""
    settings = {"method": "lff", "per_device_train_batch_size": 12, "max_steps": 600, "save_steps": 1000}
    settings |= {"eval_steps": 50, "logging_steps": 50}
    assert launch(2, *words(odd_digits, tmp_path / "undisturbed", **settings)).returncode == 0
    command = words(odd_digits, tmp_path / "out", **settings)
    with start(2, *command) as told:
        for line in told.stdout:
            if line.split()[:1] == ["100"]:  # the row of an evaluation
                break
        told.terminate()
        told.communicate(timeout=60)
    assert told.returncode != 0
    checkpoints = list((tmp_path / "out").glob("checkpoint-*"))
    assert len(checkpoints) == 1 and 100 <= int(checkpoints[0].name.split("-")[1]) < 600
    assert not (tmp_path / "out" / "all_results.json").exists()
    resumed = launch(2, *command, "--resume_from_checkpoint", "true")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert weights(tmp_path / "out") == weights(tmp_path / "undisturbed")


CALLED_FROM_PYTHON = """
import os, sys, time
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
import hf_biasensemble as be

def slow_to_build():  # in the process that writes it
    time.sleep(2 * (os.environ["RANK"] == "0"))
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=28, patch_size=7, num_labels=4))

given = {"method": "erm", "max_steps": 1, "use_cpu": True, "disable_tqdm": True}
processor = ViTImageProcessor(size={"height": 28, "width": 28})
erm = be.fit(sys.argv[1], **given)
run = be.fit(sys.argv[1], model=slow_to_build, processing_class=processor, compare_with=erm, **given)
evaluated = "test_accuracy" in erm.results and "test_accuracy" in run.results
print(f"run {run.folder} {evaluated}\\n", end="")  # one write, since two processes share the pipe
"""


@pytest.mark.slow
def test_each_process_has_the_model_handed_in_and_the_finished_run(odd_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "called.py").write_text(CALLED_FROM_PYTHON)
    done = launch(2, odd_digits, script=tmp_path / "called.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run outputs/erm_2 True") == 2, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("by", ["flag", "file"])
def test_launcher_that_starts_fewer_processes_than_asked(odd_digits, tmp_path, by):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 2\nuse_cpu: true\n"
        "mixed_precision: 'no'\nnum_machines: 1\nmachine_rank: 0\n"
    )
    asked = {"flag": ["--cpu", "--num_processes", "2"], "file": ["--config_file", str(config)]}[by]
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *asked]
    command = words(odd_digits, tmp_path / "out", "erm", max_steps=1)
    done = subprocess.run(
        [*launcher, str(ROOT / "train.py"), *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("asked for 2 processes and started one") == 1


# Accumulated batches -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accumulated(odd_digits, tmp_path_factory):
    """The same step as one batch of 24 and as three of 8."""
    folder = tmp_path_factory.mktemp("accumulated")
    for method in ("erm", "lff_be"):
        for name, count in (("whole", 1), ("parts", 3)):
            settings = {"per_device_train_batch_size": 24 // count, "gradient_accumulation_steps": count}
            settings |= {"adam_epsilon": 1e-4, "max_steps": 8, "save_steps": 1}
            assert train(odd_digits, folder / f"{method}_{name}", method, **settings) == 0
    return folder


def test_accumulated_batches_give_the_step_of_one_batch(accumulated: Path):
    whole, parts = accumulated / "erm_whole", accumulated / "erm_parts"
    assert distance(whole / "model.safetensors", parts / "model.safetensors") < 1e-5
    assert largest_log_difference(whole, parts) < 1e-5


def test_mean_over_the_amplified_set_is_that_of_the_whole_step(accumulated: Path):
    """The biased model depends on nothing else, so it is the same although the parts hold unequal numbers of it."""
    one, other = (load_file(accumulated / f"lff_be_{n}/checkpoint-8/model.safetensors") for n in ("whole", "parts"))
    biased = [name for name in one if name.startswith("biased.")]
    assert biased and max(float((one[name] - other[name]).abs().max()) for name in biased) < 1e-5


def test_table_takes_in_the_parts_of_a_step_one_after_another(accumulated: Path):
    """With the same first values as one batch; the weights of the first part do not know the later ones."""
    files = [
        accumulated / f"lff_be_{name}" / "checkpoint-1" / "sample_losses.safetensors" for name in ("whole", "parts")
    ]
    assert distance(*files) < 1e-5
    assert distance(*(file.with_name("model.safetensors") for file in files)) > 1e-4


def test_step_of_a_loss_that_is_not_finite_counts_steps_not_parts(odd_digits, tmp_path, capsys):
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 3, "learning_rate": 1e30}
    assert train(odd_digits, tmp_path / "out", "erm", **settings) == 2
    assert "at step 2 " in capsys.readouterr().err
