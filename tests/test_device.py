"""What each step does on a device that is not the host, seen on one that has no hardware: nothing but its batch is
copied there, and nothing waits for it. Launches are counted.

The limits of launches are what was counted with one process, with a tenth to spare.
"""

import json
from pathlib import Path

import pytest
import torch
from fresh_python import fresh_python
from runs import METHODS
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hf_biasensemble.trainers.weight_average import WeightAverage

SCRIPT = Path(__file__).parent / "device_steps.py"
LAUNCHES = {
    **{"erm": 48, "jtt": 48, "last_layer_be": 35, "group_dro_be": 65, "lff": 124, "lff_be": 124},
    **{"disent": 178, "disent_be": 178, "members": 104},
}
VARIANTS = ("members on one batch", "a share of conflicting samples", "crop and flip", "affine", "photographs")


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "the first of two"])
def found(request, tmp_path_factory):
    """What the steps of all methods did, as one process or as a part of two."""
    return request.param, all_steps(tmp_path_factory.mktemp("device"), str(request.param))


def all_steps(folder: Path, *words: str) -> dict:
    done = fresh_python(SCRIPT, *words, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def uploads_of_a_batch(name: str) -> int:
    """Images and labels; other than for members with orders of their own, the rows as well."""
    return {"members": 2, "accumulated batches": 6}.get(name, 3)


@pytest.mark.slow
def test_each_method_is_tried(found):
    assert found[1].keys() >= {
        *METHODS,
        *VARIANTS,
        "members",
        "accumulated batches",
        "batch normalisation",
        "features",
    }


@pytest.mark.slow
def test_a_step_copies_its_batch_and_nothing_else_and_never_waits(found):
    for name, steps in found[1].items():
        assert steps["waits"] == [[], [], []], name
        for uploads in steps["uploads"]:
            assert len(uploads) == uploads_of_a_batch(name), (name, uploads)


@pytest.mark.slow
def test_launches_of_a_step(found):
    processes, methods = found
    for name, limit in LAUNCHES.items():
        for launches in methods[name]["launches"]:
            assert 20 < launches <= limit * (1 if processes == 1 else 1.35), name


@pytest.mark.slow
def test_votes_and_predictions_are_of_all_samples(found):
    for name, steps in found[1].items():
        assert steps["predicted"] == [64, 3], name


@pytest.mark.slow
def test_a_fault_put_into_a_step_is_seen(tmp_path):
    found = all_steps(tmp_path, "1", "faults")
    assert len(found) == 5
    for fault, steps in found.items():
        uploaded_more = all(len(uploads) > uploads_of_a_batch("erm") for uploads in steps["uploads"])
        assert all(steps["waits"]) or uploaded_more, fault


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
