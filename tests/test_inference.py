"""Where the commands run that only ask a finished model: on the device that Accelerate finds, or on the processors."""

import json
from pathlib import Path

import pytest
from fresh_python import fresh_python
from PIL import Image
from runs import error_line, train
from synthetic import coloured_digits

from hf_biasensemble.cli.main import run_command

SCRIPT = Path(__file__).parent / "device_commands.py"
MATRIX_PRODUCTS = ("addmm", "mm")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Data, a run with BiasEnsemble, and an image."""
    data = coloured_digits(tmp_path_factory.mktemp("data"), num_train=64, num_validation=32)
    folder = tmp_path_factory.mktemp("run")
    changes = {"max_steps": 4, "eval_steps": 4, "member_steps": 20, "member_threshold": 0.3}
    assert train(data, folder / "lff_be", "lff_be", **changes) == 0
    Image.new("RGB", (28, 28), (200, 30, 30)).save(folder / "red.png")
    return data, folder / "lff_be", folder / "red.png"


def command_words(command, run):
    data, model, image = run
    return {
        "test": ["--model", model, "--dataset_name", data],
        "judge": ["--model", model, "--members", model, "--dataset_name", data],
        "predict": ["--model", model, image],
        "explain": ["--model", model, "--dataset_name", data],
    }[command]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["test", "judge", "predict", "explain"])
def test_a_command_runs_on_the_device_that_accelerate_finds(command, run, tmp_path):
    launched = []
    for stated in ([], ["--use_cpu"]):
        done = fresh_python(SCRIPT, command, *command_words(command, run), *stated, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["status"] == 0
        launched.append(sum(found["launches"].get(name, 0) for name in MATRIX_PRODUCTS))
    assert launched[0] >= 4 and launched[1] == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_changes_probabilities_a_little(precision, run, capsys):
    _, model, image = run
    probability = {}
    for stated in ((), (f"--{precision}",)):
        assert run_command("predict", ["--model", str(model), str(image), "--use_cpu", *stated]) == 0
        probability[stated] = float(capsys.readouterr().out.splitlines()[1].split(",")[-1])
    full, mixed = probability.values()
    assert full != mixed and full == pytest.approx(mixed, abs=0.02)


@pytest.mark.parametrize("command", ["test", "judge", "predict", "explain"])
def test_two_precisions_and_empty_batches_are_refused(command, run, capsys):
    given = [str(word) for word in command_words(command, run)]
    assert run_command(command, [*given, "--bf16", "--fp16"]) == 2
    assert "--bf16 and --fp16: expected one of the two, found both" in error_line(capsys)
    assert run_command(command, [*given, "--batch_size", "0"]) == 2
    assert "--batch_size: expected at least 1, found 0" in error_line(capsys)
