"""DisEnt step by step: what each term teaches, when the swap starts, and the terms computed by hand."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.methods import METHODS
from hf_biasensemble.methods.disent import DisentArguments, DisentTrainer
from hf_biasensemble.methods.lff import LffTrainer
from hf_biasensemble.models.pair import DisentangledPair
from hf_biasensemble.selection import Selection

BACKBONES = ["mlp", "test_resnet"]
CLASS_NAMES = ["first", "second", "third"]
COUNT, BATCH, SIZE = 24, 12, 32
BIASED_TERMS, DEBIASED_TERMS = ["biased", "swapped_biased"], ["debiased", "swapped_debiased"]
LAMBDA_DIS, LAMBDA_SWAP, LAMBDA_SWAP_BIAS, Q = 3.0, 0.5, 7.0, 0.6


def random_split() -> ImageSplit:
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randint(256, (COUNT, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return ImageSplit(pixels, torch.arange(COUNT) % len(CLASS_NAMES), CLASS_NAMES, torch.arange(COUNT))


def half_selected(split: ImageSplit) -> Selection:
    """A bias-amplified set with samples of each class inside and outside."""
    selected = np.arange(len(split)) // len(CLASS_NAMES) % 2 == 0
    probability = selected.astype(np.float32)
    return Selection(np.arange(len(split)), split.labels.numpy(), selected.astype(int), probability, selected, {})


def make_trainer(output_dir: Path, backbone: str, kind: type = DisentTrainer, be: bool = True, **changes):
    """A real trainer with a selection (`be`) or without, whose swap starts after step 2."""
    split = random_split()
    method = ("lff" if kind is LffTrainer else "disent") + ("_be" if be else "")
    given = {
        "method": method,
        "output_dir": str(output_dir),
        "max_steps": 10,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 0.003,
        "lambda_dis": LAMBDA_DIS,
        "lambda_swap": LAMBDA_SWAP,
        "lambda_swap_bias": LAMBDA_SWAP_BIAS,
        "generalized_cross_entropy_q": Q,
        "swap_start_step": 2,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = DisentArguments(**(given | changes))
    pair = METHODS[method].network(ModelArguments(backbone=backbone, image_size=SIZE), CLASS_NAMES, 5)
    transform = ImageTransform((0.5,) * 3, (0.25,) * 3)
    return kind(pair, args, transform, split, selection=half_selected(split) if be else None)


def terms_after(trainer: DisentTrainer, step: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The terms of one batch when `step` steps have been made, and the batch."""
    trainer.model.train()
    trainer.state.global_step = step
    # Not the first rows: a sample's row must not be mistaken for its place in the batch.
    batch = trainer._prepare_inputs(trainer.train_dataset.__getitems__(list(range(BATCH + 5, 5, -1))))
    return trainer.training_terms(trainer.model, batch), batch


def networks(pair: DisentangledPair) -> dict[str, list[torch.nn.Parameter]]:
    """Parameters of the network that follows the bias (E_b, C_b) and of the other (E_i, C_i)."""
    debiased = pair.debiased
    return {
        "biased": [*debiased.bias_encoder.parameters(), *pair.bias_classifier.parameters()],
        "debiased": [*debiased.encoder.parameters(), *debiased.classifier.parameters()],
    }


# What each term teaches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", BIASED_TERMS + DEBIASED_TERMS)
@pytest.mark.parametrize("be", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_term_leaves_the_other_network_without_gradient(tmp_path, backbone, be, term):
    trainer = make_trainer(tmp_path, backbone, be=be)
    terms, _ = terms_after(trainer, 3)
    assert list(terms) == ["debiased", "biased", "swapped_debiased", "swapped_biased"]
    terms[term].backward()
    taught, left_alone = ("biased", "debiased") if term in BIASED_TERMS else ("debiased", "biased")
    parameters = networks(trainer.model)
    assert len(parameters["biased"]) + len(parameters["debiased"]) == len(list(trainer.model.parameters()))
    assert all(parameter.grad is None for parameter in parameters[left_alone])
    assert all(parameter.grad is not None for parameter in parameters[taught])
    # Encoder (first) and head (last) both learn; the head from both halves of its input.
    assert parameters[taught][0].grad.abs().max() > 0
    head = parameters[taught][-2].grad
    assert all(half.abs().max() > 0 for half in head.chunk(2, dim=1))


def test_weights_carry_no_gradient(tmp_path):
    trainer = make_trainer(tmp_path, "mlp")
    losses = torch.rand(2, 4, requires_grad=True)
    weight = trainer.weigh(torch.arange(4), *losses)
    assert (weight > 0).all() and not weight.requires_grad


# By hand -------------------------------------------------------------------------------------------------------------


def by_hand(trainer: DisentTrainer, batch: dict[str, torch.Tensor], permutation: list[int], be: bool):
    """The four terms in plain torch, sample by sample, for a first step: the averages are the losses themselves."""
    debiased, bias_head = trainer.model.debiased, trainer.model.bias_classifier
    labels = batch["labels"].tolist()
    inside = [row // len(CLASS_NAMES) % 2 == 0 for row in batch["index"].tolist()]
    z_i, z_b = debiased.encoder(batch["pixel_values"]), debiased.bias_encoder(batch["pixel_values"])

    def loss(head, intrinsic, bias, label):
        scores = head.weight @ torch.cat([intrinsic, bias]) + head.bias
        return torch.logsumexp(scores, dim=0) - scores[label]

    def mean_of_biased(losses, members):
        if be:
            kept = [value for value, member in zip(losses, members, strict=True) if member]
            assert 0 < len(kept) < len(losses)
            return torch.stack(kept).mean()
        return torch.stack([Q * math.exp(-value.item()) ** Q * value for value in losses]).mean()

    places = range(len(labels))
    of_i = [loss(debiased.classifier, z_i[k], z_b[k].detach(), labels[k]) for k in places]
    of_b = [loss(bias_head, z_i[k].detach(), z_b[k], labels[k]) for k in places]

    def scaled(losses, k):
        return losses[k].item() / (max(losses[j].item() for j in places if labels[j] == labels[k]) + 1e-8)

    weights = [scaled(of_b, k) / (scaled(of_b, k) + scaled(of_i, k) + 1e-8) for k in places]
    partner = dict(zip(places, permutation, strict=True))
    swapped_i = [loss(debiased.classifier, z_i[k], z_b[partner[k]].detach(), labels[k]) for k in places]
    swapped_b = [loss(bias_head, z_i[k].detach(), z_b[partner[k]], labels[partner[k]]) for k in places]
    swapped_inside = [inside[partner[k]] for k in places]
    return {
        "debiased": torch.stack([w * value for w, value in zip(weights, of_i, strict=True)]).mean(),
        "biased": LAMBDA_DIS * mean_of_biased(of_b, inside),
        "swapped_debiased": LAMBDA_SWAP
        * torch.stack([w * value for w, value in zip(weights, swapped_i, strict=True)]).mean(),
        "swapped_biased": LAMBDA_SWAP * LAMBDA_SWAP_BIAS * mean_of_biased(swapped_b, swapped_inside),
    }


@pytest.mark.parametrize("be", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_terms_and_gradients_equal_the_computation_by_hand(tmp_path, backbone, be):
    trainer = make_trainer(tmp_path, backbone, be=be)
    torch.manual_seed(11)
    terms, batch = terms_after(trainer, 3)
    torch.manual_seed(11)
    permutation = torch.randperm(BATCH).tolist()
    labels = batch["labels"].tolist()
    assert [labels[k] for k in permutation] != labels
    naive = by_hand(trainer, batch, permutation, be)
    parameters = list(trainer.model.parameters())
    for name, value in naive.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
        ours = torch.autograd.grad(terms[name], parameters, retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None) == (other is None), name
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * max(1.0, other.abs().max().item()))


# When the swap starts ------------------------------------------------------------------------------------------------


def logged(trainer: DisentTrainer, key: str) -> dict[int, float]:
    return {entry["step"]: entry[key] for entry in trainer.state.log_history if key in entry}


@pytest.mark.parametrize("start, first_swapped", [(0, 2), (2, 4), (0.4, 6), (9, None)])
def test_swap_starts_strictly_after_its_step(tmp_path, start, first_swapped):
    trainer = make_trainer(tmp_path, "mlp", swap_start_step=start)
    trainer.train()
    steps = list(range(first_swapped, 11)) if first_swapped else []
    assert list(logged(trainer, "loss_swapped_debiased")) == list(logged(trainer, "loss_swapped_biased")) == steps
    assert list(logged(trainer, "loss_debiased")) == list(logged(trainer, "loss_biased")) == list(range(1, 11))


@pytest.mark.parametrize("backbone, resumed_at", [("mlp", 3), ("mlp", 6), ("test_resnet", 3)])
def test_swap_goes_on_from_the_step_of_the_resumed_run(tmp_path, backbone, resumed_at):
    """Before the first swapped step (which is the sixth) and after it."""
    changes = {"swap_start_step": 4, "save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    whole = make_trainer(tmp_path, backbone, **changes)
    whole.train()
    resumed = make_trainer(tmp_path, backbone, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{resumed_at}"))
    assert resumed.state.global_step == 10
    for key in ("loss", "loss_swapped_debiased", "loss_swapped_biased"):
        assert logged(resumed, key) == logged(whole, key)
    assert list(logged(resumed, "loss_swapped_biased")) == [6, 7, 8, 9, 10]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


class KeepsPermutations(DisentTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.permutations: list[list[int]] = []

    def swap_permutation(self, batch_size):
        permutation = super().swap_permutation(batch_size)
        if permutation is not None:
            self.permutations.append(permutation.tolist())
        return permutation


def test_permutations_follow_the_seed(tmp_path):
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)  # the random state that a run finds must not matter
        trainer = make_trainer(tmp_path, "mlp", KeepsPermutations, seed=seed)
        trainer.train()
        drawn.append(trainer.permutations)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 7 and all(sorted(each) == list(range(BATCH)) for each in drawn[0])
    assert len({tuple(each) for each in drawn[0]}) == 7


@pytest.mark.parametrize(
    "changes, starts, warned",
    [
        ({"swap_start_step": 10_000}, False, "swap_start_step 10000, max_steps 10;"),
        ({"swap_start_step": 9}, False, "swap_start_step 9, max_steps 10;"),
        ({"swap_start_step": 0.99}, False, "swap_start_step 10, max_steps 10;"),
        ({"swap_start_step": 8}, True, None),
        ({"swap_start_step": 10_000, "lambda_swap": 0.0}, False, None),  # nobody asked for it
        ({"step_decay_steps": 10_000}, True, None),
    ],
)
def test_swap_that_never_starts_is_said(tmp_path, caplog, changes, starts, warned):
    with caplog.at_level(logging.WARNING, logger="hf_biasensemble"):
        trainer = make_trainer(tmp_path, "mlp", **changes)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("hf_biasensemble")]
    assert len(said) == (warned is not None)
    if warned:
        assert "the swap of bias features never starts" in said[0] and warned in said[0]
        assert "lower --swap_start_step" in said[0] and "\n" not in said[0]
    trainer.train()
    assert bool(logged(trainer, "loss_swapped_biased")) == starts


# One Adam ------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([DisentTrainer, LffTrainer]),
    learning_rate=st.sampled_from([1e-5, 1e-3, 0.1]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    scale=st.sampled_from([1e-6, 1.0, 1e3]),
    seed=st.integers(0, 2**31),
)
def test_one_adam_over_both_networks_equals_two(tmp_path_factory, kind, learning_rate, weight_decay, scale, seed):
    folder = tmp_path_factory.getbasetemp()
    trainer = make_trainer(folder, "mlp", kind, learning_rate=learning_rate, weight_decay=weight_decay)
    twin = make_trainer(folder, "mlp", kind).model
    parts = networks(twin).values() if kind is DisentTrainer else [part.parameters() for part in twin.children()]
    two = [torch.optim.Adam(part, lr=learning_rate, weight_decay=weight_decay) for part in parts]
    one = trainer.create_optimizer()
    pairs = list(zip(trainer.model.parameters(), twin.parameters(), strict=True))
    start = [parameter.detach().clone() for parameter, _ in pairs]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        for parameter, other in pairs:
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
            other.grad = parameter.grad.clone()
        for optimiser in (one, *two):
            optimiser.step()
    for (parameter, other), before in zip(pairs, start, strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-7)
        assert not torch.equal(parameter, before)
