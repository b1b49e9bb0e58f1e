"""Batches ahead of their steps and pixels kept on the device, as far as a processor shows it: nothing changes there.
What a device does is in test_device.py."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import train, weights

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.data.batches.device_pixels import with_pixels_on
from hf_biasensemble.data.batches.member_batches import MemberBatches
from hf_biasensemble.data.batches.prefetching import Prefetch, prefetched
from hf_biasensemble.data.pixels import ImageSplit, OnDevice
from hf_biasensemble.data.store.features import Features
from hf_biasensemble.internal.errors import BiasEnsembleError

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.trainers import Setting, random_split, trainer

CPU = torch.device("cpu")


def on_device(split: ImageSplit) -> ImageSplit:
    """The split with pixels that are on the device that computes, which here is the processor."""
    pixels = split.pixels.values if isinstance(split.pixels, Features) else split.pixels
    return replace(split, on_device=OnDevice(pixels.clone(), split.labels.clone()))


def test_a_processor_gathers_a_batch_when_it_is_asked_for_and_copies_nothing():
    gathered: list[int] = []
    batches = [{"pixel_values": torch.rand(2, 3)} for _ in range(3)]

    def gather():
        for number, batch in enumerate(batches):
            gathered.append(number)
            yield batch

    for number, batch in enumerate(prefetched(gather(), CPU)):
        assert batch["pixel_values"] is batches[number]["pixel_values"]
        assert gathered == list(range(number + 1))
    assert number == 2
    assert Prefetch(CPU)(batches[0]) is batches[0]


def test_batches_are_the_same_from_pixels_on_the_device():
    split = random_split(50).select(torch.arange(40, 10, -1))
    features = replace(split, pixels=Features(torch.rand(50, 2, 8).half(), torch.zeros(8), torch.ones(8)))
    for plain in (split, features):
        there = on_device(plain)
        for part in (there, there.select(torch.arange(30))):  # a part keeps them
            for positions in ([3, 0, 3], torch.arange(30)):
                one, other = plain.__getitems__(positions), part.__getitems__(positions)
                assert one.keys() == other.keys()
                for name in one:
                    assert torch.equal(one[name], other[name]), name
    assert on_device(split).fingerprint == split.fingerprint
    orders = [MemberBatches.shuffled(part, 3, seed=1).__getitems__([0, 5]) for part in (split, on_device(split))]
    for name, values in orders[0].items():
        assert torch.equal(values, orders[1][name]), name
    assert with_pixels_on("device", CPU, {"train": split})["train"] is split


def test_splits_of_the_same_images_share_them_on_the_device():
    split, other = random_split(50), random_split(20)
    splits = {"train": split.select(torch.arange(30)), "validation": split.select(torch.arange(30, 50)), "test": other}
    there = with_pixels_on("device", torch.device("meta"), splits)
    assert there["train"].on_device.pixels is there["validation"].on_device.pixels
    assert there["test"].on_device.pixels.shape == other.pixels.shape
    for name, part in there.items():
        assert part.on_device.pixels.device.type == part.on_device.labels.device.type == "meta"
        assert part.pixels is splits[name].pixels and torch.equal(part.rows, splits[name].rows)


@pytest.mark.parametrize("method", ["lff_be", "disent_be", "members"])
def test_training_and_predictions_are_bitwise_the_same_from_pixels_on_the_device(method):
    split = random_split(60)
    found = []
    for part in (split, on_device(split)):
        torch.manual_seed(0)
        with trainer(method, part, Setting(batch_size=16), 6, num_members=2) as built:
            built.train()
            predicted = torch.from_numpy(built.member_votes()["member_probabilities"]) if method == "members" else None
            predicted = built.predict_logits(part) if predicted is None else predicted
            found.append({**built.model.state_dict(), "predicted": predicted})
    for name, values in found[0].items():
        assert torch.equal(values, found[1][name]), name


def test_the_option_gives_the_same_run_and_is_refused_where_it_cannot_hold(digits, tmp_path):
    for name in ("host", "device"):
        assert train(digits, tmp_path / name, "lff_be", pixels_on=name) == 0
    assert weights(tmp_path / "host") == weights(tmp_path / "device")
    for given, expected in (
        ({"pixels_on": "gpu"}, "one of host, device, found gpu"),
        ({"pixels_on": "device", "dataloader_num_workers": 1}, "host with --dataloader_num_workers, found device"),
    ):
        with pytest.raises(BiasEnsembleError, match=f"^--pixels_on: expected {expected}$"):
            DebiasingArguments(output_dir=str(tmp_path / "refused"), **given)
