"""Runs of the real train command on the tiny data set, in this process or in several under torchrun, and what they
leave behind."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from synthetic import CLASS_NAMES

from hf_biasensemble.arguments import (
    DataArguments,
    DebiasingArguments,
    ModelArguments,
    SelectionArguments,
    parse_arguments,
)
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.collectives import leave
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_transform, load_image_splits
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.output_folder import REPOSITORY_PLACEHOLDER
from hf_biasensemble.run import train_members

ROOT = Path(__file__).parents[1]
ARGUMENTS = [DataArguments, ModelArguments, SelectionArguments, DebiasingArguments]
METHODS = ["erm", "lff", "disent", "lff_be", "disent_be"]
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
    "num_members": 3,
    "member_steps": 30,
    "member_threshold": 0.9,
    "member_agreement": 2,
    "use_cpu": "true",
    "disable_tqdm": "true",
}
PUSHED = {
    *("config.json", "model.safetensors", "modeling_debiased.py", "README.md", "all_results.json", "config.yaml"),
    *("history.csv", "figures/accuracy.png", "figures/evidence.png"),
    *("figures/groups.png", "figures/relative_difficulty.png", "figures/selection.png"),
}


def words(data: Path, output_dir: Path, method: str = "erm", **changes: object) -> list[str]:
    """What is given to the train command; a list is a setting of several values."""
    settings = {"dataset_name": data, "output_dir": output_dir, "method": method, **SETTINGS, **changes}
    given = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    return [str(word) for name, values in given.items() for word in (f"--{name}", *values)]


def train(data: Path, output_dir: Path, method: str = "erm", **changes: object) -> int:
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
    model_args, selection_args, args, splits = selection_inputs(Path(data), Path(output_dir), **changes)
    selection, _ = train_members(model_args, selection_args, args, splits, {})
    if args.should_save:
        selection.save(Path(output_dir) / "selection")


def train_one_after_another(file: str) -> None:
    """The train commands in a JSON file, and then its member stages, in this process."""
    commands = json.loads(Path(file).read_text())
    for command in commands["whole"]:
        assert run_command("train", command) == 0, command
    for stage in commands["members"]:
        train_only_members(*stage)
    leave()


def selection_inputs(
    data: Path, output_dir: Path, **changes: object
) -> tuple[ModelArguments, SelectionArguments, DebiasingArguments, dict[str, ImageSplit]]:
    """What `make_selection` is called with in a run."""
    data_args, model_args, selection_args, args = parse_arguments(
        ARGUMENTS, words(data, output_dir, "lff_be", **changes)
    )
    return model_args, selection_args, args, load_image_splits(data_args, model_args.image_size)


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


def trained_logits(folder: Path, given: list[str]) -> torch.Tensor:
    """Logits of the test images, by the weights in the last checkpoint and through the training pipeline.

    Args:
        folder: Of a finished run of any method but ERM.
        given: What the train command was given.
    """
    data_args, model_args, _, args = parse_arguments(ARGUMENTS, given)
    config = classifier_config(model_args, CLASS_NAMES, 2 if args.method.startswith("disent") else 1)
    network = DebiasedImageClassifier(config).eval()
    checkpoint = load_file(folder / "checkpoint-12" / "model.safetensors")
    debiased = {name: value for name, value in checkpoint.items() if name.startswith("debiased.")}
    network.load_state_dict({name.removeprefix("debiased."): value for name, value in debiased.items()})
    pixels = load_image_splits(data_args, model_args.image_size)["test"].pixels
    with torch.inference_mode():
        return network(image_transform(model_args)(pixels, training=False)).logits


def trained_probabilities(published: Path, kind: str) -> list[dict[str, float]]:
    """Probability of each class for each test image, by the trained network of this kind of model."""
    probabilities = torch.from_numpy(np.load(published / f"{kind}.npy")).softmax(dim=-1)
    return [dict(zip(CLASS_NAMES, row, strict=True)) for row in probabilities.tolist()]


def pushed_of(folder: Path, repo_id: str) -> dict[str, bytes]:
    """What a push must leave in a repository: the files, with the repository's name in the card's examples."""
    files = {name: (folder / name).read_bytes() for name in PUSHED if (folder / name).is_file()}
    card = files["README.md"].decode().replace(f"local-dir:{REPOSITORY_PLACEHOLDER}", f"hf-hub:{repo_id}")
    return files | {"README.md": card.replace(REPOSITORY_PLACEHOLDER, repo_id).encode()}


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
    assert any("loss_debiased" in entry or "loss_classification" in entry for entry in one)
    pairs = zip(one, other, strict=True)
    return max(abs(entry[name] - again[name]) for entry, again in pairs for name in entry)


if __name__ == "__main__":
    train_one_after_another(sys.argv[1])
