"""Runs of the real train command on the tiny dataset, in this process or in several under torchrun, and what they
leave behind."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from synthetic import CLASS_NAMES

from hf_biasensemble.arguments import settled_selection
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import image_geometry, image_transform, load_image_splits
from hf_biasensemble.folders.checkpoints import newest_readable
from hf_biasensemble.folders.output_folder import REPOSITORY_PLACEHOLDER
from hf_biasensemble.internal.collectives import leave
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.methods import method_of
from hf_biasensemble.models.inputs import Inputs
from hf_biasensemble.models.preprocessing import with_preprocessing
from hf_biasensemble.runs.run_arguments import asked_method, parse_run

ROOT = Path(__file__).parents[1]
METHODS = [name for name in ALL_METHODS if not ALL_METHODS[name].chooses]  # each must pass the tests of all
WITH_BIAS_ENSEMBLE = [name for name in METHODS if getattr(ALL_METHODS[name].selector, "name", "") == "bias_ensemble"]
# 96 training images in batches of 16: six steps an epoch, so that step 5 is inside the first one.
SETTINGS = {
    "max_steps": 12,
    "per_device_train_batch_size": 16,
    "learning_rate": 0.003,
    "eval_steps": 4,
    "save_steps": 5,
    "save_total_limit": 10,
    "logging_steps": 3,
    "swap_start_step": 7,
    "adjustment_tau": 0.5,
    "first_stage_steps": 30,
    "num_members": 3,
    "member_steps": 30,
    "member_threshold": 0.9,
    "member_agreement": 2,
    "use_cpu": "true",
    "disable_tqdm": "true",
}
PUSHED = {
    *("config.json", "model.safetensors", "modeling_debiased.py", "README.md", "all_results.json", "config.yaml"),
    *("history.csv", "figures/accuracy.png", "figures/reliance.png"),
    *("figures/groups.png", "figures/relative_difficulty.png", "figures/selection.png"),
}


def words(data: Path, output_dir: Path, method: str = "erm", **changes: object) -> list[str]:
    """What is given to the train command; a list is a setting of several values."""
    settings = {"dataset_name": data, "output_dir": output_dir, "method": method}
    methods = [method] if method in ALL_METHODS else METHODS
    settings |= {**common_settings(*methods, selector=changes.get("selector")), **changes}
    given = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    return [str(word) for name, values in given.items() for word in (f"--{name}", *values)]


def slow_but(names: Iterable[str], *quick: str) -> list:
    """Parameters of a test: all of the names, of which only the quick ones are tried by `make test`."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def common_settings(*methods: str, selector: object = None) -> dict[str, object]:
    """What tests set of the options that one of these methods has, with its own selector or another one."""
    asked = [f"--selector={selector}"] if selector else []
    known = set().union(
        *(asked_method([f"--method={name}", *asked]).option_names() for name in methods if name in ALL_METHODS)
    )
    return {name: value for name, value in SETTINGS.items() if name in known}


def train(data: Path, output_dir: Path, method: str = "erm", **changes: object) -> int:
    """One that starts from another method's run has that made first, beside its own folder."""
    before = ALL_METHODS[method].starts_from
    if before and "resume_from_checkpoint" in changes:
        changes["init_from"] = yaml.safe_load((output_dir / "config.yaml").read_text())["init_from"]
    elif before and not {"init_from", "freeze_backbone", "feature_column"} & changes.keys():
        start = output_dir.parent / f"{output_dir.name}_start"
        network = {name: changes[name] for name in ("backbone", "image_size") if name in changes}
        if not start.exists():
            assert train(data, start, before, **network) == 0
        changes["init_from"] = start
    return run_command("train", words(data, output_dir, method, **changes))


def launch(processes: int, *arguments: object, script: Path = ROOT / "train.py") -> subprocess.CompletedProcess:
    """Runs a script under torchrun."""
    with start(processes, *arguments, script=script) as started:
        try:
            stdout, stderr = started.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            started.kill()
            raise
    return subprocess.CompletedProcess(started.args, started.returncode, stdout, stderr)


def start(processes: int, *arguments: object, script: Path = ROOT / "train.py") -> subprocess.Popen:
    """Starts a script under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    command = [*torchrun, str(script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train_only_members(data: str, output_dir: str, changes: dict[str, object]) -> None:
    """The member stage of a run: the members' last checkpoint stays beside the selection."""
    selector, inputs, selection_args, args = selection_inputs(Path(data), Path(output_dir), **changes)
    trainer = selector.trainer(inputs.member_args, selection_args, args, inputs.member_splits, [])
    found = newest_readable(Path(trainer.args.output_dir)) if args.resume_from_checkpoint else None
    trainer.train(resume_from_checkpoint=str(found) if found else None)
    selection = trainer.select({})
    if args.should_save:
        selection.save(Path(output_dir) / "selection")


def train_one_after_another(file: str) -> None:
    """The commands in a JSON file, then its train commands and member stages, in this process."""
    commands = json.loads(Path(file).read_text())
    for name, *given in commands.get("others", []):
        assert run_command(name, given) == 0, (name, given)
    for command in commands["whole"]:
        assert run_command("train", command) == 0, command
    for stage in commands["members"]:
        train_only_members(*stage)
    leave()


def selection_inputs(data: Path, output_dir: Path, method: str = "lff_be", **changes: object) -> tuple:
    """What `make_selection` is called with in a run: selector, inputs, settings of selector and training."""
    data_args, model_args, selection_args, args = parse_run(words(data, output_dir, method, **changes))
    selection_args = settled_selection(selection_args, model_args, args)
    model_args = with_preprocessing(model_args)
    splits = load_image_splits(data_args, image_geometry(model_args))
    features = getattr(selection_args, "member_features", "final")
    inputs = Inputs.of_run(model_args, data_args, args, splits, features)
    return method_of(args).selector, inputs, selection_args, args


def killed_after(folder: Path, step: int) -> None:
    """Leaves what a run has written until then."""
    for path in folder.iterdir():
        if path.name not in ("config.yaml", "selection", "history.csv") and not 0 < step_of(path) <= step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def step_of(path: Path) -> int:
    """Of a checkpoint; 0 for any other file."""
    return int(path.name.split("-")[1]) if path.name.startswith("checkpoint-") else 0


def error_line(capsys: pytest.CaptureFixture) -> str:
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    return errors[0]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def results(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())


def history(folder: Path) -> list[dict[str, str]]:
    with open(folder / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def trained_logits(folder: Path, given: list[str], class_names: list[str] = CLASS_NAMES) -> torch.Tensor:
    """Logits of the test images, by the weights in the last checkpoint and through the training pipeline.

    Args:
        folder: Of a finished run of any method but ERM.
        given: What the train command was given.
        class_names: Of the data.
    """
    data_args, model_args, _, args = parse_run(given)
    model_args = with_preprocessing(model_args)
    network = ALL_METHODS[args.method].network(model_args, class_names, args.seed)
    network.load_state_dict(load_file(folder / "checkpoint-12" / "model.safetensors"))
    pixels = load_image_splits(data_args, image_geometry(model_args))["test"].pixels
    with torch.inference_mode():
        return network.eval()(pixel_values=image_transform(model_args)(pixels, training=False))["logits"]


def trained_probabilities(published: Path, kind: str) -> list[dict[str, float]]:
    """Probability of each class for each test image, by the trained network of this kind of model."""
    probabilities = torch.from_numpy(np.load(published / f"{kind}.npy")).softmax(dim=-1)
    return [dict(zip(CLASS_NAMES, row, strict=True)) for row in probabilities.tolist()]


def pushed_of(folder: Path, repo_id: str) -> dict[str, bytes]:
    """What a push must leave in a repository: the files, with its name in the card's examples and settings without
    folders of this machine."""
    files = {name: (folder / name).read_bytes() for name in PUSHED if (folder / name).is_file()}
    card = files["README.md"].decode().replace(f"local-dir:{REPOSITORY_PLACEHOLDER}", f"hf-hub:{repo_id}")
    settings = yaml.safe_load(files["config.yaml"])
    settings |= {key: f"path/to/{Path(value).name}" for key, value in settings.items() if str(value).startswith("/")}
    return files | {
        "README.md": card.replace(REPOSITORY_PLACEHOLDER, repo_id).encode(),
        "config.yaml": yaml.safe_dump(settings, sort_keys=False).encode(),
    }


def distance(ours: Path, theirs: Path) -> float:
    """Largest difference between two files of tensors."""
    one, other = load_file(ours), load_file(theirs)
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def logged(folder: Path) -> list[dict]:
    """What was logged at the steps, without what tells the time."""
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in entries if "train_runtime" not in entry]


def largest_log_difference(ours: Path, theirs: Path) -> float:
    """Of all values logged at the same step; the keys must be the same."""
    one, other = logged(ours), logged(theirs)
    assert [entry.keys() for entry in one] == [entry.keys() for entry in other]
    assert any(name.startswith("loss_") for entry in one for name in entry)
    pairs = zip(one, other, strict=True)
    return max(abs(entry[name] - again[name]) for entry, again in pairs for name in entry)


if __name__ == "__main__":
    train_one_after_another(sys.argv[1])
