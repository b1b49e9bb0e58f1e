"""Under bfloat16, everything that decides about samples is float32; and no step makes the host wait for a device."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import train
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import hf_biasensemble.trainers.bias_ensemble as bias_ensemble
from hf_biasensemble.losses.objectives import (
    biased_objective,
    cross_entropy,
    generalized_cross_entropy,
    masked_mean,
    relative_difficulty,
    true_class_probability,
)
from hf_biasensemble.losses.sample_losses import SampleLosses
from hf_biasensemble.methods.disent import DisentTrainer
from hf_biasensemble.methods.lff import LffTrainer
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.relative_difficulty import RelativeDifficultyTrainer

CHANGES = {"bf16": "true", "max_steps": 8, "save_steps": 4}
TRAINERS = {"lff_be": LffTrainer, "disent_be": DisentTrainer}


def needs_float32(values: torch.Tensor) -> bool:
    """Whether bfloat16 could not hold these."""
    return values.dtype == torch.float32 and not torch.equal(values, values.bfloat16().float())


@pytest.mark.parametrize("method", TRAINERS)
def test_losses_weights_tables_and_terms_of_a_bfloat16_run(digits, tmp_path, monkeypatch, method):
    seen: dict[str, list[torch.Tensor]] = {"losses": [], "weights": [], "terms": [], "averages": []}
    networks: set[torch.dtype] = set()
    weigh, terms = RelativeDifficultyTrainer.weigh, TRAINERS[method].training_terms

    def watched_weigh(self, index, biased_loss, debiased_loss):
        seen["losses"] += [biased_loss.detach(), debiased_loss.detach()]
        seen["weights"].append(weigh(self, index, biased_loss, debiased_loss))
        seen["averages"].append(self.sample_losses.averages())
        return seen["weights"][-1]

    def watched_terms(self, model, batch):
        layer = self.classifier().classifier
        hook = layer.register_forward_hook(lambda module, inputs, output: networks.add(output.dtype))
        computed = terms(self, model, batch)
        hook.remove()
        seen["terms"].append(torch.stack(list(computed.values())).detach())
        return computed

    monkeypatch.setattr(RelativeDifficultyTrainer, "weigh", watched_weigh)
    monkeypatch.setattr(TRAINERS[method], "training_terms", watched_terms)
    assert train(digits, tmp_path / "out", method, **CHANGES) == 0
    assert networks == {torch.bfloat16}  # the networks do run in it
    for name, values in seen.items():
        assert len(values) >= 8 and all(needs_float32(value) for value in values), name


def test_members_vote_in_float32(digits, tmp_path, monkeypatch):
    """What they give is what the members, trained in bfloat16, give when run in float32 by hand."""
    found: dict[str, np.ndarray] = {}
    votes = bias_ensemble.BiasEnsembleTrainer.member_votes

    def watched(self):
        made = votes(self)
        found["ours"] = made["member_probabilities"].T.copy()
        pixels = self.transform(self.split.pixels[self.split.rows], training=False)
        with torch.inference_mode():
            logits = [member(pixels).logits for member in self.model.members]
        found["by_hand"] = np.stack([true_class_probability(one, self.split.labels).numpy() for one in logits])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            coarse = self.model.members[0](pixels).logits
        found["coarse"] = true_class_probability(coarse, self.split.labels).numpy()
        return made

    monkeypatch.setattr(bias_ensemble.BiasEnsembleTrainer, "member_votes", watched)
    assert train(digits, tmp_path / "out", "lff_be", **CHANGES) == 0
    assert np.allclose(found["ours"], found["by_hand"], rtol=0, atol=1e-6)
    assert np.abs(found["coarse"] - found["by_hand"][0]).max() > 1e-4  # in bfloat16 one would have seen it


def test_votes_tell_probabilities_apart_that_bfloat16_cannot():
    """.9901 and .9899 lie on the two sides of .99 and are one number in bfloat16."""
    wanted = torch.tensor([0.9901, 0.9899], dtype=torch.float64)
    logits = torch.stack([torch.log(wanted / (1 - wanted)), torch.zeros(2, dtype=torch.float64)], dim=1).float()
    assert wanted.bfloat16()[0] == wanted.bfloat16()[1]
    with torch.autocast("cpu", torch.bfloat16):
        probabilities = true_class_probability(logits, torch.zeros(2, dtype=torch.int64))
    labels = np.zeros(2, dtype=np.int64)
    selection = Selection.from_votes(probabilities.numpy()[None], np.arange(2), labels, threshold=0.99, agreement=1)
    assert selection.is_selected.tolist() == [True, False]


def test_objectives_under_autocast_are_what_they_are_without():
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(64, 10, generator=generator)
    labels = torch.randint(10, (64,), generator=generator)

    def everything() -> list[torch.Tensor]:
        losses = cross_entropy(logits, labels)
        table = SampleLosses(labels, 10)
        table.update(torch.arange(64), torch.stack([losses, losses.flip(0)], dim=1))
        biased, debiased = table.scaled(torch.arange(64)).unbind(dim=1)
        return [
            losses,
            generalized_cross_entropy(logits, labels),
            true_class_probability(logits, labels),
            masked_mean(losses, labels > 4),
            table.averages(),
            relative_difficulty(biased, debiased),
            biased_objective(logits, labels, None, 0.7),
            biased_objective(logits, labels, labels > 4, 0.7),
        ]

    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = everything()
    for value, expected in zip(under_autocast, everything(), strict=True):
        assert value.dtype == torch.float32 and torch.equal(value, expected)


# Host synchronisation ------------------------------------------------------------------------------------------------


class Dispatched(TorchDispatchMode):
    """Operations that cannot end before the device has: their result is on the host, or has a size that depends on
    values."""

    waiting = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim")

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put_", "index_put") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if name in self.waiting or by_mask or (name == "repeat_interleave" and "output_size" not in (kwargs or {})):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    """Calls that copy to the host, which on the processor dispatch nothing."""

    waiting = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.waiting:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", TRAINERS)
def test_step_never_waits_for_the_device(digits, tmp_path, monkeypatch, method):
    found: list[list[str]] = []
    training_step = TRAINERS[method].training_step

    def watched(self, *args, **kwargs):
        found.append([])
        with Called(found[-1]), Dispatched(found[-1]):
            return training_step(self, *args, **kwargs)

    monkeypatch.setattr(TRAINERS[method], "training_step", watched)
    changes = {"max_steps": 8, "augmentation": "affine", "conflicting_share": 0.2, "logging_steps": 100}
    assert train(digits, tmp_path / "out", method, **changes) == 0
    assert found == [[]] * 8


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values.sum().item(),
        lambda values: values.cpu(),
        lambda values: bool(values.any()),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: values.tolist(),
    ],
)
def test_waiting_would_be_found(wait):
    found: list[str] = []
    with Called(found), Dispatched(found):
        wait(torch.ones(3))
    assert found


def test_checkpoints_of_a_bfloat16_run_go_on_bitwise(digits, tmp_path):
    whole: Path = tmp_path / "out"
    assert train(digits, whole, "disent_be", **CHANGES) == 0
    before = (whole / "model.safetensors").read_bytes()
    (whole / "model.safetensors").unlink()
    for file in (whole / "checkpoint-8").iterdir():
        file.unlink()
    (whole / "checkpoint-8").rmdir()
    assert train(digits, whole, "disent_be", **CHANGES, resume_from_checkpoint="true") == 0
    assert (whole / "model.safetensors").read_bytes() == before
