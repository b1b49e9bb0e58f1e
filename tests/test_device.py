"""What each step does on a device that is not the host, seen on one that has no hardware: nothing but its batch is
copied there, and nothing waits for it. Launches are counted.

The limits of launches are what was counted with one process, with a tenth to spare.
"""

import json
from pathlib import Path

import pytest
import torch
from fresh_python import fresh_python
from runs import METHODS, words
from synthetic import coloured_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hf_biasensemble.trainers.weight_average import WeightAverage

SCRIPT = Path(__file__).parent / "device_steps.py"
COMMANDS = Path(__file__).parent / "device_commands.py"
LAUNCHES = {
    **{
        "erm": 48,
        "jtt": 48,
        "last_layer_be": 35,
        "group_dro_be": 65,
        "logit_adjusted": 56,
        "product_of_experts": 54,
        "lff": 124,
        "lff_be": 124,
    },
    **{"disent": 178, "disent_be": 178, "members": 104},
}
VARIANTS = (
    *("members on one batch", "augmented members", "a share of conflicting samples", "clipped gradients"),
    *("crop and flip", "affine", "photographs", "batch normalisation", "features", "accumulated batches"),
    *(f"{name}, pixels on the device" for name in ("erm", "disent_be", "members")),
)


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "the first of two"])
def found(request, tmp_path_factory):
    """What the steps of all methods did, as one process or as a part of two."""
    return request.param, all_steps(tmp_path_factory.mktemp("device"), str(request.param))


def all_steps(folder: Path, *words: str) -> dict:
    done = fresh_python(SCRIPT, *words, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def uploads_of_a_batch(name: str) -> int:
    """Images and labels; other than for members with orders of their own, the rows as well. Of what is on the device,
    the rows alone."""
    if "pixels on" in name:
        return 1
    return {"members": 2, "augmented members": 2}.get(name, 6 if "accumulated" in name else 3)


@pytest.mark.slow
def test_each_method_is_tried(found):
    assert found[1].keys() == {*METHODS, "members", *VARIANTS}


@pytest.mark.slow
def test_a_step_copies_its_batch_and_nothing_else_and_never_waits(found):
    for name, steps in found[1].items():
        assert steps["waits"] == [[], [], []], name
        for uploads in steps["uploads"]:
            assert len(uploads) == uploads_of_a_batch(name), (name, uploads)
            assert "pixels on" not in name or uploads[0].endswith(") torch.int64"), name


@pytest.mark.slow
def test_the_next_batch_is_copied_beside_the_step_and_nothing_reads_it_before_it_is_there(found):
    for name, steps in found[1].items():
        assert steps["races"] == [[], [], []], name
        if "pixels on" not in name:  # their rows, two kB of them, go where the device computes
            assert steps["beside"] == [uploads_of_a_batch(name)] * 3, name
            assert steps["copied_before_first"] > uploads_of_a_batch(name), name


@pytest.mark.slow
def test_launches_of_a_step(found):
    processes, methods = found
    for name, limit in LAUNCHES.items():
        for launches in methods[name]["launches"]:
            assert 20 < launches <= limit * (1 if processes == 1 else 1.35), name


@pytest.mark.slow
def test_votes_and_predictions_are_of_all_samples(found):
    for name, steps in found[1].items():
        assert steps["predicted"] == [256, 3], name
        batches = 4 if found[0] == 1 else 1
        assert steps["races_after"] == [] and steps["beside_after"] == ("pixels on" not in name) * batches, name


@pytest.mark.slow
def test_a_fault_put_into_a_step_is_seen(tmp_path):
    found = all_steps(tmp_path, "1", "faults")
    assert len(found) == 7
    for fault, steps in found.items():
        uploaded_more = all(len(uploads) > uploads_of_a_batch("erm") for uploads in steps["uploads"])
        assert all(steps["waits"]) or all(steps["races"]) or uploaded_more, fault


@pytest.mark.slow
def test_pixels_that_the_device_has_no_room_for_are_refused_before_anything_is_trained(tmp_path):
    data = coloured_digits(tmp_path / "digits", num_train=64, num_validation=32)
    for dry in ([], ["--dry_run"]):
        given = words(data, tmp_path / "run", "erm", use_cpu="false", pixels_on="device") + dry
        done = fresh_python(COMMANDS, "train", *given, cwd=tmp_path, MEMORY_OF_DEVICE="100000")
        assert json.loads(done.stdout.splitlines()[-1])["status"] == 2
        error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert error == [
            "error: --pixels_on device: expected room for 0.000376 GB of decoded images on gpu, found 0.0001 GB "
            "free; leave the option out"
        ]


def test_the_average_is_that_of_pytorch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def lerp(averaged, current, steps):
        if torch.is_floating_point(averaged[0]):
            decay = min(0.9, (int(steps) + 1) / (int(steps) + 10))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:
            torch._foreach_copy_(averaged, current)

    expected, average = AveragedModel(model, multi_avg_fn=lerp, use_buffers=True), WeightAverage(model, 0.9)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(4):
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        expected.update_parameters(model)
        average.on_step_end(None, None, None)
    state = average.averaged.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(state[name], value), name
