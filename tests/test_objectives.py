"""The losses against loops over single samples in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_biasensemble.losses.objectives import (
    biased_objective,
    cross_entropy,
    generalized_cross_entropy,
    masked_mean,
    relative_difficulty,
    true_class_probability,
)

HALF_PRECISION = [torch.float16, torch.bfloat16]


def naive_probability(scores: list[float], label: int) -> float:
    largest = max(scores)
    exponentials = [math.exp(score - largest) for score in scores]
    return exponentials[label] / math.fsum(exponentials)


def naive_cross_entropy(scores: list[float], label: int) -> float:
    largest = max(scores)
    return largest + math.log(math.fsum(math.exp(score - largest) for score in scores)) - scores[label]


def naive_generalized_cross_entropy(scores: list[float], label: int, q: float) -> float:
    return naive_cross_entropy(scores, label) * q * naive_probability(scores, label) ** q


@st.composite
def batches(draw):
    """Logits (B, K) float32 and labels (B,), down to one sample, now and then with thousands of classes."""
    count = draw(st.integers(1, 12))
    classes = draw(st.sampled_from([2, 3, 10, 10, 3000]))
    spread = draw(st.sampled_from([0.01, 1.0, 30.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(count, classes, generator=generator) * spread
    return logits, torch.randint(classes, (count,), generator=generator)


def masks(logits: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.rand(len(logits), generator=torch.Generator().manual_seed(seed)) < 0.5


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(0.05, 1.0))
def test_per_sample_losses_equal_the_loops(batch, q):
    logits, labels = batch
    rows = list(zip(logits.tolist(), labels.tolist(), strict=True))
    for ours, naive in (
        (cross_entropy(logits, labels), [naive_cross_entropy(*row) for row in rows]),
        (true_class_probability(logits, labels), [naive_probability(*row) for row in rows]),
        (generalized_cross_entropy(logits, labels, q), [naive_generalized_cross_entropy(*row, q) for row in rows]),
    ):
        assert ours.tolist() == pytest.approx(naive, rel=1e-4, abs=1e-5)


def test_a_sample_whose_probability_is_too_small_for_float32_still_counts():
    scores = [0.0, 150.0]
    assert true_class_probability(torch.tensor([scores]), torch.tensor([0])).item() == 0
    ours = generalized_cross_entropy(torch.tensor([scores]), torch.tensor([0]), q=0.05).item()
    assert ours == pytest.approx(naive_generalized_cross_entropy(scores, 0, 0.05), rel=1e-4)
    assert ours > 1e-3


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(0.05, 1.0))
def test_gradient_of_generalized_cross_entropy_is_that_of_cross_entropy_weighted(batch, q):
    logits, labels = batch
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(generalized_cross_entropy(logits, labels, q).sum(), logits)
    for row, scores, label in zip(gradient.tolist(), logits.tolist(), labels.tolist(), strict=True):
        weight = q * naive_probability(scores, label) ** q
        expected = [weight * (naive_probability(scores, k) - (k == label)) for k in range(min(len(scores), 20))]
        assert row[:20] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(batches(), st.integers(0, 1000), st.floats(0.05, 1.0))
def test_biased_objective_equals_the_loop(batch, seed, q):
    logits, labels = batch
    selected = masks(logits, seed)
    rows = list(zip(logits.tolist(), labels.tolist(), strict=True))
    kept = [naive_cross_entropy(*row) for row, keep in zip(rows, selected.tolist(), strict=True) if keep]
    naive = math.fsum(kept) / len(kept) if kept else 0.0
    assert float(biased_objective(logits, labels, selected, q)) == pytest.approx(naive, rel=1e-4, abs=1e-5)
    whole = math.fsum(naive_generalized_cross_entropy(*row, q) for row in rows) / len(rows)
    assert float(biased_objective(logits, labels, None, q)) == pytest.approx(whole, rel=1e-4, abs=1e-5)


def test_batch_without_selected_member_gives_zero_loss_and_zero_gradient():
    logits = torch.randn(5, 3, requires_grad=True)
    loss = biased_objective(logits, torch.tensor([0, 1, 2, 0, 1]), torch.zeros(5, dtype=torch.bool), 0.7)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0.0
    assert torch.equal(gradient, torch.zeros(5, 3))


def test_samples_outside_the_selection_get_no_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = biased_objective(logits, torch.tensor([0, 1, 2]), torch.tensor([True, False, True]), 0.7)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True, False, True]


def test_masked_mean_divides_by_what_the_mask_holds():
    values = torch.tensor([1.0, 10.0, 4.0])
    assert float(masked_mean(values, torch.tensor([True, False, True]))) == 2.5
    assert float(masked_mean(values, torch.tensor([False, True, False]))) == 10.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=20))
def test_relative_difficulty_equals_the_loop(pairs):
    biased, debiased = torch.tensor(pairs).unbind(dim=1)
    naive = [b / (b + d + 1e-8) for b, d in pairs]
    assert relative_difficulty(biased, debiased).tolist() == pytest.approx(naive, rel=1e-5, abs=1e-7)


def test_relative_difficulty_is_high_where_only_the_biased_model_fails():
    weight = relative_difficulty(torch.tensor([1.0, 0.01, 0.0, 0.5]), torch.tensor([0.01, 1.0, 0.0, 0.5]))
    assert weight.tolist() == pytest.approx([0.990099, 0.00990099, 0.0, 0.5], rel=1e-5)


@pytest.mark.parametrize("precision", HALF_PRECISION)
def test_half_precision_logits_give_float32_losses(precision):
    logits = (torch.randn(6, 5) * 5).to(precision)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    exact = logits.double()
    for loss in (cross_entropy, true_class_probability, generalized_cross_entropy):
        ours = loss(logits, labels)
        assert ours.dtype == torch.float32
        # Computed in half precision, the values would be off by a thousandth or more.
        assert ours.tolist() == pytest.approx(loss(exact, labels).tolist(), rel=1e-5)
    assert biased_objective(logits, labels, labels > 1, 0.7).dtype == torch.float32
    assert biased_objective(logits, labels, None, 0.7).dtype == torch.float32


def test_losses_of_members_side_by_side_equal_those_of_each_alone():
    logits, labels = torch.randn(7, 3, 5), torch.randint(5, (7, 3))
    together = generalized_cross_entropy(logits, labels, 0.7)
    for member in range(3):
        assert torch.equal(together[:, member], generalized_cross_entropy(logits[:, member], labels[:, member], 0.7))
