"""Building a model with a seed of its own leaves all random streams as they were."""

import torch
from torch import nn

from hf_biasensemble.internal.seeding import build_with_seed


def test_same_seed_builds_the_same():
    first, again, other = (build_with_seed(seed, lambda: nn.Linear(3, 2)).weight for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    assert torch.equal(first, nn.Linear(3, 2).weight)


def test_draws_go_on_as_if_nothing_was_built():
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    build_with_seed(5, lambda: nn.Linear(3, 2))
    assert torch.equal(torch.rand(4), expected)


def test_generators_of_gpus_are_not_touched():
    if torch.cuda.is_available():
        state = torch.cuda.get_rng_state_all()
        build_with_seed(5, lambda: nn.Linear(3, 2))
        assert all(map(torch.equal, state, torch.cuda.get_rng_state_all()))
    else:  # what torch remembers to do once there is one
        waiting = list(torch.cuda._lazy_seed_tracker.get_calls())
        build_with_seed(5, lambda: nn.Linear(3, 2))
        assert list(torch.cuda._lazy_seed_tracker.get_calls()) == waiting
