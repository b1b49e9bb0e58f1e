"""What a step may cost, counted and not timed: operators, Python calls, waits for the device, bytes decoded.

The limits are what was counted, with a tenth (operators) or a quarter (Python calls, which change with the versions of
torch and transformers) to spare. Lower them when a step gets cheaper.
"""

import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest
import torch
from runs import train
from synthetic import coloured_digits
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

import hf_biasensemble.data.decoding as decoding
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.evaluation.classifier import predict_logits
from hf_biasensemble.losses.objectives import relative_difficulty
from hf_biasensemble.losses.sample_losses import SampleLosses

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.trainers import Setting, random_split, trainer

STEPS = 8
OPERATORS = {"erm": 111, "lff": 251, "lff_be": 251, "disent": 345, "disent_be": 345, "members": 275}
PYTHON_CALLS = {"erm": 800, "lff": 1240, "lff_be": 1240, "disent": 1150, "disent_be": 1150, "members": 1630}
WAITING = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim")


class Operators(TorchDispatchMode):
    """Counts what is dispatched, the backward pass too, and the largest new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter = Counter()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.counts[name] += 1
        result = function(*args, **(kwargs or {}))
        in_place_or_view = name.endswith("_") or function.is_view
        if isinstance(result, torch.Tensor) and not in_place_or_view:
            self.largest = max(self.largest, result.numel())
        return result


class EachStep(TrainerCallback):
    """Takes the counts of each whole step: loading, transforms, both passes, optimiser, and all of the Trainer's."""

    def __init__(self, counts: Counter):
        self.counts = counts
        self.steps: list[Counter] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(Counter(self.counts))
        self.counts.clear()

    def steady(self) -> list[Counter]:
        """Without the first steps, which import and allocate."""
        return self.steps[3:]


def settled(method: str):
    """A real trainer of the MLP on small batches: counts do not depend on their size."""
    return trainer(method, random_split(200), Setting(batch_size=16), STEPS, num_members=3)


@pytest.mark.parametrize("method", OPERATORS)
def test_operators_of_a_step_and_none_that_waits_for_the_device(method):
    with settled(method) as built, Operators() as operators:
        each = EachStep(operators.counts)
        built.add_callback(each)
        built.train()
    assert len(each.steady()) == STEPS - 3
    for step in each.steady():
        assert 50 < step.total() <= OPERATORS[method], step.most_common(12)
        assert not [name for name in WAITING if step[name]]


@pytest.mark.parametrize("method", PYTHON_CALLS)
def test_python_calls_of_a_step(method):
    counts: Counter = Counter()

    def count(frame, event, argument):
        if event == "call" and not frame.f_code.co_filename.startswith("<frozen"):  # as many as sys.path is long
            counts[frame.f_code.co_qualname] += 1

    with settled(method) as built:
        each = EachStep(counts)
        built.add_callback(each)
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            built.train()
        finally:
            sys.setprofile(before)
    for step in each.steady():
        assert 300 < step.total() <= PYTHON_CALLS[method], step.most_common(12)


def test_table_costs_the_same_for_any_number_of_samples_and_nearly_so_in_operators():
    def cost(samples: int, classes: int) -> Operators:
        table = SampleLosses(torch.arange(samples) % classes, classes)
        index, losses = torch.randint(samples, (64,)), torch.rand(64, 2)
        with Operators() as operators:
            table.update(index, losses)
            relative_difficulty(*table.scaled(index).unbind(dim=1))
        return operators

    small, large, many_classes = cost(2_000, 2), cost(500_000, 2), cost(500_000, 5_000)
    assert small.largest == large.largest == many_classes.largest == 64 * 2 * 128  # a block for each of the batch
    assert small.counts.total() <= 48
    for other in (large, many_classes):
        assert other.counts.total() <= small.counts.total() + 10  # one level more


def test_restoring_a_table_takes_memory_for_its_blocks_only():
    table = SampleLosses(torch.arange(50_000) % 10, 10)
    state = table.state_dict()
    with Operators() as operators:
        table.load_state_dict(state)
    assert operators.largest <= 2 * 50_000


def test_evaluation_costs_a_few_operators_per_batch_and_one_pass_of_the_network():
    split, transform = random_split(600), image_transform(Setting().model_args())
    with trainer("lff_be", split, Setting(batch_size=16), 1) as built:
        model = built.published_model()
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda module, args, kwargs: forwards.append(1), with_kwargs=True)

    def operators(batch_size: int) -> Counter:
        forwards.clear()
        with Operators() as counted:
            predict_logits(model, split, transform, batch_size)
        assert len(forwards) == 600 // batch_size
        return counted.counts

    two, six = operators(300), operators(100)
    assert (six.total() - two.total()) / 4 <= 20
    assert two["index_select"] == 2 and not two["index"]  # of whole images, which takes a twentieth of the time


def test_each_image_is_decoded_once_whatever_is_done_with_it(tmp_path, monkeypatch):
    digits = coloured_digits(tmp_path / "digits", seed=77)  # of which no other test has left a store
    decoded: list[int] = []
    decode = decoding.decode_image

    def watched(record, image_size):
        decoded.append(len(record["bytes"]))
        return decode(record, image_size)

    monkeypatch.setattr(decoding, "decode_image", watched)
    splits = datasets.load_dataset("parquet", data_dir=str(digits)).cast_column("image", datasets.Image(decode=False))
    sizes = [len(image["bytes"]) for split in splits.values() for image in split["image"]]
    assert train(digits, tmp_path / "first", "lff_be") == 0  # members, votes, 12 steps, 3 evaluations
    assert sorted(decoded) == sorted(sizes)
    decoded.clear()
    for name in ("mapped", "again"):
        assert train(digits, tmp_path / name, "erm", pixel_memory_limit=0) == 0
        assert not decoded  # they come from the first run's store
