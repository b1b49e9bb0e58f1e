"""Weight averaging, augmentation and importance-sampled batches: each does what it says and nothing else."""

import logging
import shutil

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from runs import METHODS, history, results, slow_but, train, weights
from safetensors.torch import load_file
from torch.utils.data import BatchSampler
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as torchvision_functional

from hf_biasensemble.data.batches.sampling import ConflictingShareSampler
from hf_biasensemble.data.batches.transforms import random_affine
from hf_biasensemble.losses.objectives import importance_weights
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.weight_average import WeightAverage

ALL = {"weight_average": 0.9, "augmentation": "affine", "conflicting_share": 0.5}
IN_SET = torch.tensor([True, False, True, True, False, True, True, True])


# Importance-sampled batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_expected_gradient_is_that_of_uniform_draws(share):
    torch.manual_seed(1)
    inputs, targets = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    parameter = torch.randn(3, dtype=torch.float64, requires_grad=True)
    losses = (inputs @ parameter - targets) ** 2
    outside = ~IN_SET
    probability = (1 - share) / 8 + share * outside.double() / 2
    assert float(probability.sum()) == pytest.approx(1)
    factors = importance_weights(IN_SET, share, num_samples=8, num_outside=2).double()
    expected = torch.autograd.grad(losses.mean(), parameter, retain_graph=True)[0]
    drawn = torch.autograd.grad((probability * factors * losses).sum(), parameter)[0]
    torch.testing.assert_close(drawn, expected, rtol=1e-6, atol=1e-6)


def test_weights_are_as_written_and_one_without_anything_outside():
    found = importance_weights(torch.tensor([True, False]), 0.5, num_samples=100, num_outside=5)
    assert found.tolist() == pytest.approx([1 / 0.5, 1 / (0.5 + 0.5 * 20)])
    assert importance_weights(torch.tensor([True, True]), 0.5, num_samples=2, num_outside=0).tolist() == [1, 1]


def test_every_batch_has_its_share_and_all_samples_have_their_turn():
    in_set = torch.ones(1000, dtype=torch.bool)
    in_set[::50] = False  # 20 outside
    sampler = ConflictingShareSampler(in_set, share=0.5, seed=3)
    order = torch.tensor(list(sampler))
    assert len(order) == len(sampler) == 1000
    on_purpose, anywhere = order[1::2], order[0::2]
    assert not in_set[on_purpose].any()
    assert torch.bincount(on_purpose, minlength=1000)[~in_set].tolist() == [25] * 20  # 500 draws from 20 samples
    assert len(set(anywhere.tolist())) == 500 and in_set[anywhere].float().mean() > 0.95
    uneven = torch.tensor(list(ConflictingShareSampler(in_set, share=0.3, seed=3)))
    outside = (~in_set[uneven]).view(-1, 20).sum(1)
    assert outside.min() >= 6 and outside.float().mean() < 7


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = ConflictingShareSampler(IN_SET.repeat(20), 0.5, seed)
        sampler.set_epoch(epoch)
        torch.rand(3)  # the global generator does not matter
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*which)) for which in ((0, 0), (1, 0), (0, 1))}) == 3


def test_set_of_everything_is_drawn_from_uniformly():
    order = list(ConflictingShareSampler(torch.ones(10, dtype=torch.bool), 0.5, 0))
    assert sorted(order) == list(range(10))


def test_two_processes_draw_what_one_does():
    def batches(size: int, processes: int) -> list[list[list[int]]]:
        sampler = ConflictingShareSampler(IN_SET.repeat(20), 0.5, 0)
        shards = [
            BatchSamplerShard(BatchSampler(sampler, size, drop_last=True), processes, rank)
            for rank in range(processes)
        ]
        return list(zip(*shards, strict=True))

    together = [[index for part in step for index in part] for step in batches(8, 2)]
    assert together == [step[0] for step in batches(16, 1)] and len(together) == 10


def test_share_without_augmentation_is_warned_of(digits, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert train(digits, tmp_path / "out", "lff_be", conflicting_share=0.5, max_steps=2) == 0
    assert "--conflicting_share without --augmentation" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert train(digits, tmp_path / "more", "lff_be", max_steps=2, **ALL) == 0
    assert "--conflicting_share without" not in caplog.text


# Weight averaging ---------------------------------------------------------------------------------------------------


def test_average_follows_its_formula_with_batchnorm_and_counters():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5)
    expected: dict[str, torch.Tensor] = {}
    for step in range(6):
        model(torch.randn(4, 2))
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 2))
        average.on_step_end(None, None, None)
        decay = min(0.5, (step + 1) / (step + 10)) if step else 0.0
        for name, value in model.state_dict().items():
            before = expected.get(name, value)
            expected[name] = decay * before + (1 - decay) * value if value.is_floating_point() else value.clone()
    assert decay == 6 / 15
    for name, value in average.averaged.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert int(average.averaged.module[1].num_batches_tracked) == 6


@pytest.mark.parametrize("method", ["erm", "lff_be", "disent"])
def test_average_is_published_and_the_raw_weights_measured_beside_it(digits, tmp_path, method):
    assert train(digits, tmp_path / "out", method, weight_average=0.9, max_steps=24, learning_rate=0.006) == 0
    last = tmp_path / "out" / "checkpoint-24"
    averaged = load_file(last / "weight_average.safetensors")
    published = load_file(tmp_path / "out" / "model.safetensors")
    raw = load_file(last / "model.safetensors")
    prefix = "" if method == "erm" else "debiased."
    for name, value in published.items():
        assert torch.equal(value, averaged[f"module.{name}"])
        assert not torch.equal(value, raw[prefix + name])
    rows = history(tmp_path / "out")
    assert {"raw_test_accuracy", "raw_validation_conflicting_accuracy", "test_accuracy"} <= rows[0].keys()
    assert any(row["raw_test_accuracy"] != row["test_accuracy"] for row in rows)
    assert results(tmp_path / "out")["raw_test_accuracy"] == float(rows[-1]["raw_test_accuracy"])


def test_averaging_does_not_touch_the_training(digits, tmp_path):
    assert train(digits, tmp_path / "plain", "lff") == 0
    assert train(digits, tmp_path / "averaged", "lff", weight_average=0.9) == 0
    name = "checkpoint-12/model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "averaged" / name).read_bytes()


# Augmentation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (20, 32)])
def test_affine_is_torchvisions_under_the_same_draws(size):
    images = torch.rand(6, 3, *size) * 255
    images = torchvision_functional.gaussian_blur(images, [5, 5])  # nearest places differ least on smooth images
    torch.manual_seed(5)
    found = random_affine(images)
    torch.manual_seed(5)
    draws = torch.rand(4, 6) * 2 - 1
    height, width = size
    for number in range(6):
        zoom = 1 + 0.1 * float(draws[1, number])
        # torchvision moves the image, this moves the place that is looked at, in the turned and zoomed frame.
        angle = torch.deg2rad(15 * draws[0, number])
        across, down = (2 / 28) * draws[2, number] * width, (2 / 28) * draws[3, number] * height
        back = torch.stack([angle.cos() * across + angle.sin() * down, -angle.sin() * across + angle.cos() * down])
        expected = torchvision_functional.affine(
            images[number],
            angle=-15 * float(draws[0, number]),
            translate=(-zoom * back).tolist(),
            scale=zoom,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        inner = (slice(None), slice(5, -5), slice(5, -5))
        assert (found[number][inner] - expected[inner]).abs().max() < 3


def test_each_image_has_its_own_draw_and_colours_stay():
    image = torch.zeros(1, 3, 28, 28)
    image[:, 0, 8:20, 8:20] = 200.0
    found = random_affine(image.expand(16, -1, -1, -1))
    assert len({tuple(one.flatten().tolist()) for one in found}) == 16
    assert found[:, 1:].abs().max() == 0 and 190 < found.max() <= 200.01
    torch.testing.assert_close(random_affine(image, 0.0, 0.0, 0.0), image, atol=0.01, rtol=0)


def test_both_networks_see_the_augmented_images(digits, tmp_path):
    for augmentation in ("none", "affine"):
        assert train(digits, tmp_path / augmentation, "lff", max_steps=1, save_steps=1, augmentation=augmentation) == 0
    one, other = (load_file(tmp_path / name / "checkpoint-1" / "model.safetensors") for name in ("none", "affine"))
    for network in ("biased.", "debiased."):
        assert any(not one[name].equal(other[name]) for name in one if name.startswith(network)), network


def test_members_see_no_augmentation(digits, tmp_path):
    assert train(digits, tmp_path / "plain", "lff_be", max_steps=2) == 0
    assert train(digits, tmp_path / "augmented", "lff_be", max_steps=2, **ALL) == 0
    plain, augmented = (Selection.load(tmp_path / name / "selection") for name in ("plain", "augmented"))
    assert (plain.mean_probability == augmented.mean_probability).all()


@pytest.mark.slow
def test_members_may_have_a_rate_a_scale_and_batches_of_their_own(digits, tmp_path):
    def probabilities(name: str, **changes) -> list[float]:
        assert train(digits, tmp_path / name, "lff_be", max_steps=1, member_threshold=0.5, **changes) == 0
        return Selection.load(tmp_path / name / "selection").mean_probability.tolist()

    own = probabilities("own", member_learning_rate=0.01, member_image_scale=2.0, member_batch_size=5)
    same = {"learning_rate": 0.01, "image_scale": 2.0, "per_device_train_batch_size": 5}
    assert own == probabilities("same", **same)
    assert own != probabilities("batches", **same | {"per_device_train_batch_size": 8})
    assert own != probabilities("rate", member_learning_rate=0.01) != probabilities("neither")


# All together -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", slow_but(METHODS, "erm", "disent_be"))
def test_resumed_run_is_bitwise_the_undisturbed_one(digits, tmp_path, method):
    given = {name: value for name, value in ALL.items() if name in ALL_METHODS[method].option_names()}
    assert train(digits, tmp_path / "whole", method, **given) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for path in (tmp_path / "killed").iterdir():
        if path.name not in ("config.yaml", "selection", "checkpoint-5"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert train(digits, tmp_path / "killed", method, resume_from_checkpoint="true", **given) == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert history(tmp_path / "killed")[-1] == history(tmp_path / "whole")[-1]
