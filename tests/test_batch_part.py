"""Means over a step that several forward passes share: each gives its part, and the parts average to the mean."""

import pytest
import torch

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.trainers.batch_part import BatchPart

VALUES = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
MASK = torch.tensor([True, False, True, True, False])


def shares(mask: torch.Tensor | None, counts: torch.Tensor | None) -> torch.Tensor:
    """What two accumulated batches, of three samples and of two, say of their step."""
    parts = [(BatchPart(0, 3, 5, 2, counts), slice(0, 3)), (BatchPart(0, 2, 5, 2, counts), slice(3, 5))]
    return torch.stack([part.mean(VALUES[rows], None if mask is None else mask[rows]) for part, rows in parts])


def test_parts_average_to_the_mean_of_the_step():
    assert shares(None, None).mean() == pytest.approx(VALUES.mean().item())
    assert shares(MASK, torch.tensor([2, 3])).mean() == pytest.approx(VALUES[MASK].mean().item())
    by_group = shares(MASK.long(), torch.tensor([2, 3])).mean(dim=0)
    assert by_group.tolist() == pytest.approx([VALUES[~MASK].mean().item(), VALUES[MASK].mean().item()])


def test_mean_over_a_mask_without_groups_is_refused_with_what_to_do():
    with pytest.raises(BiasEnsembleError, match="call group_samples in its __init__"):
        shares(MASK, None)
