"""Folds of `auto`, models to judge and members of an audit, shared out among processes: results are those of one."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from runs import ROOT, launch, words
from safetensors.torch import load_file, save_file
from synthetic import coloured_digits
from test_machines import ended, two_machines

from hf_biasensemble.cli.main import run_command

GLOBAL_BATCH = 24
# A method that cannot do without one of the images, which is in one fold only.
NEEDS_AN_IMAGE = """
from dataclasses import replace

from hf_biasensemble import BiasEnsembleError, ErmTrainer
from hf_biasensemble.methods.erm import METHOD as ERM


class NeedingTrainer(ErmTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if 50 not in self.train_dataset.rows:
            raise BiasEnsembleError("expected image 50 among the training images, found none; add it")


METHOD = replace(ERM, name="needing", title="Needing", trainer=NeedingTrainer)
"""
CANDIDATES = ["erm", "lff", "lff_be", "product_of_experts:adjustment_tau=0.5", "group_dro_be"]
CASES = {
    "bare": {"candidates": CANDIDATES, "folds": 3, "member_batch_size": 12, "dataloader_drop_last": "false"},
    # Not bare, and with three processes one has no fold.
    "in_parts": {
        "candidates": ["erm", "product_of_experts"],
        "folds": 2,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 1.0,
    },
    "failing": {"candidates": ["erm", "needing", "product_of_experts"], "folds": 3},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coloured_digits(tmp_path_factory.mktemp("data"), num_train=145, num_validation=240, conflicting_share=0.15)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Of runs on features of a tiny network, with a method of their own."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("weights")
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "backbone.safetensors")
    (folder / "needing.py").write_text(NEEDS_AN_IMAGE)
    network = {"backbone": "test_resnet", "pretrained_weights": folder / "backbone.safetensors", "image_size": 32}
    options = {**network, "freeze_backbone": "true", "feature_views": 2, "augmentation": "photographs"}
    # Adam divides gradients by their size, rounding errors as well, unless epsilon is above these.
    return {
        **options,
        "method_file": folder / "needing.py",
        "accept_loss": 100,
        "adam_epsilon": 1e-4,
        "save_strategy": "no",
    }


@pytest.fixture(scope="module")
def by_processes(data, options, tmp_path_factory):
    """Gives the folder of what one process and so many make, and what the several said."""
    folder, said = tmp_path_factory.mktemp("processes"), {}

    def commands(processes: int) -> dict[str, list]:
        sizes = {"per_device_train_batch_size": GLOBAL_BATCH // processes}
        cases = {name: {**options, **sizes, **case} for name, case in CASES.items()}
        cases["bare"]["member_batch_size"] //= processes
        runs = [words(data, folder / f"{name}_{processes}", "auto", **case) for name, case in cases.items()]
        models = [folder / f"{name}_1" for name in CASES]
        judged = [
            "--members",
            folder / "audit_1",
            "--dataset_name",
            data,
            "--use_cpu",
            "true",
            "--compare_with",
            models[1],
        ]
        judged += ["--output_file", folder / f"judged_{processes}.json", "--model", models[0], models[2]]
        audit = words(data, folder / f"audit_{processes}", "lff_be", **sizes, member_steps=60)
        others = [["audit", *audit], ["judge", *map(str, judged)]]
        return {"whole": runs, "members": [], "others": others}

    def by_processes(processes: int) -> tuple[Path, str]:
        if not said:
            alone = commands(1)
            for name, *given in [*(["train", *run] for run in alone["whole"]), *alone["others"]]:
                assert run_command(name, given) == 0
        if processes not in said:
            file = folder / f"commands_{processes}.json"
            file.write_text(json.dumps(commands(processes)))
            done = launch(processes, file, script=ROOT / "tests" / "runs.py")
            assert done.returncode == 0, done.stderr[-3000:]
            said[processes] = done.stdout
        return folder, said[processes]

    return by_processes


SEVERAL = [2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.mark.parametrize("processes", SEVERAL)
@pytest.mark.parametrize("name", CASES)
def test_the_choice_is_that_of_one_process(by_processes, name, processes):
    folder, _ = by_processes(processes)
    one, several = (folder / f"{name}_{count}" for count in (1, processes))
    said, again = ((run / "selection" / "candidates.json").read_text() for run in (one, several))
    assert said == again
    candidates = json.loads(said)["candidates"]
    assert [found["name"] for found in candidates] == [one for one in CASES[name]["candidates"] if one != "needing"]
    assert len({found["accuracy"] for found in candidates}) > 1
    published, same = (load_file(run / "model.safetensors") for run in (one, several))
    torch.testing.assert_close(same, published, rtol=1e-5, atol=1e-5)  # of a head, some weights are large


@pytest.mark.parametrize("processes", SEVERAL)
def test_each_fold_and_each_candidate_left_out_is_said_once(by_processes, processes):
    said = by_processes(processes)[1].splitlines()
    folds = [re.fullmatch(r"Judging \d candidates: (fold . of .) done", line) for line in said]
    wanted = [f"fold {number + 1} of {case['folds']}" for case in CASES.values() for number in range(case["folds"])]
    assert sorted(found[1] for found in folds if found) == sorted(wanted)
    assert sum(line.startswith("needing is not a candidate: expected image 50") for line in said) == 1
    assert sum(line.startswith("Judged by folds") for line in said) == len(CASES)


@pytest.mark.parametrize("processes", SEVERAL)
def test_judgement_and_audit_are_those_of_one_process(by_processes, processes):
    folder, said = by_processes(processes)
    judged = (folder / "judged_1.json").read_text()
    assert judged == (folder / f"judged_{processes}.json").read_text() and len(json.loads(judged)["models"]) == 3
    assert said.count(" contradict the members; percent, with") == 1 and said.count("training images flagged, ") == 1
    audits = [folder / f"audit_{count}" for count in (1, processes)]
    assert audits[0].joinpath("audit.csv").read_bytes() == audits[1].joinpath("audit.csv").read_bytes()


@pytest.mark.slow
def test_two_machines_choose_what_one_process_chooses(by_processes, data, options, tmp_path):
    given = {**options, **CASES["in_parts"], "per_device_train_batch_size": GLOBAL_BATCH // 2}
    machines = two_machines(tmp_path, words(data, tmp_path / "out", "auto", **given))
    assert ended(machines) == [0, 0], (tmp_path / "machine0" / "log").read_text()[-3000:]
    said = [(tmp_path / f"machine{number}" / "log").read_text() for number in (0, 1)]
    assert [text.count(f"fold {number + 1} of 2 done") for number, text in enumerate(said)] == [1, 1]
    alone = by_processes(2)[0] / "in_parts_1" / "selection" / "candidates.json"
    assert (tmp_path / "out" / "selection" / "candidates.json").read_text() == alone.read_text()


@pytest.mark.slow
def test_an_error_of_the_first_candidate_ends_all(data, options, tmp_path):
    """Though only one process meets it."""
    given = {**options, "per_device_train_batch_size": 12, "candidates": ["needing", "erm"], "folds": 3}
    failed = launch(2, *words(data, tmp_path / "out", "auto", **given))
    assert failed.returncode != 0
    assert failed.stderr.count("error: expected image 50 among the training images") == 2, failed.stderr[-3000:]


@pytest.mark.parametrize("processes", SEVERAL)
def test_work_is_done_once_and_the_first_error_is_that_of_all(processes):
    done = launch(processes, script=ROOT / "tests" / "sharing_process.py")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in re.findall(r"^found: (.*)$", done.stdout, re.MULTILINE)]
    expected = {
        "many": [[number, number % processes, 1, 0] for number in range(5)],
        "few": [[0, 0, 1, 0], [1, 1, 1, 0]],
        **{"none": [], "error": "number 2", "after": processes},
    }
    assert found == [expected] * processes
