"""The losses as pure functions. B samples, K classes; per-sample losses are float32 for logits of any precision."""

from collections.abc import Callable

import torch
from torch.nn import functional


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Per-sample cross entropy.

    Args:
        logits (`torch.Tensor` of shape (..., K)): Unnormalised scores.
        labels (`torch.Tensor` of shape (...), int64): True classes.

    Returns:
        `torch.Tensor` of shape (...), float32.
    """
    losses = functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none")
    return losses.view(labels.shape)


def generalized_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, q: float = 0.7) -> torch.Tensor:
    """Per-sample generalized cross entropy in the form that LfF uses: CE * q * p_y^q, with p_y^q held constant.

    The gradient is that of the cross entropy, weighted by the model's confidence in the true class. Easy samples
    therefore dominate training (https://huggingface.co/papers/2007.02561, section 3.1).

    Args:
        logits (`torch.Tensor` of shape (..., K)): Unnormalised scores.
        labels (`torch.Tensor` of shape (...), int64): True classes.
        q (`float`, *optional*, defaults to 0.7): Strength of the amplification, above 0. Near 0, all samples count
            equally.

    Returns:
        `torch.Tensor` of shape (...), float32.
    """
    loss = cross_entropy(logits, labels)
    # p_y^q is computed as exp(-q * CE): p_y underflows to 0 for badly misclassified samples, which would then be lost.
    return loss * q * (-q * loss.detach()).exp()


def true_class_probability(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Softmax probability of the true class: logits (..., K), labels (...) -> (...), float32."""
    return logits.float().softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of the values (B,) selected by the mask (B,), or of all values; 0 if the mask is empty."""
    if mask is None:
        return values.mean(dim=0)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def group_sums(values: torch.Tensor, groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Sum of the values (B,) in each group (G,); `groups` (B,) is int64 in [0, G)."""
    return values.new_zeros(num_groups).index_add(0, groups, values)


def relative_difficulty(biased: torch.Tensor, debiased: torch.Tensor, epsilon: float = 1e-8) -> torch.Tensor:
    """Weight of each sample for the debiased model: L_B / (L_B + L_D).

    Near 1 if only the biased model finds the sample hard (bias-conflicting), near 0 if the biased model finds it easy
    (https://huggingface.co/papers/2007.02561, equation 2).

    Args:
        biased (`torch.Tensor` of shape (B,)): Losses of the biased model, scaled by the maximum of their class.
        debiased (`torch.Tensor` of shape (B,)): Losses of the debiased model, scaled in the same way.
        epsilon (`float`, *optional*, defaults to 1e-8): Avoids a division by zero.

    Returns:
        `torch.Tensor` of shape (B,), in [0, 1).
    """
    return biased / (biased + debiased + epsilon)


def biased_objective(
    logits: torch.Tensor,
    labels: torch.Tensor,
    in_amplified_set: torch.Tensor | None,
    q: float,
    mean: Callable[..., torch.Tensor] = masked_mean,
) -> torch.Tensor:
    """Loss of the biased model, from logits (B, K): the mean cross entropy over the batch's samples in the
    bias-amplified set, given as a mask (B,) (BiasEnsemble, https://huggingface.co/papers/2205.14594); without a mask,
    the mean generalized cross entropy of the batch (LfF, DisEnt)."""
    if in_amplified_set is None:
        return mean(generalized_cross_entropy(logits, labels, q))
    return mean(cross_entropy(logits, labels), in_amplified_set)


def importance_weights(
    in_amplified_set: torch.Tensor, share: float, num_samples: int, num_outside: int
) -> torch.Tensor:
    """Weights (B,), float32, that keep the expected loss that of uniform sampling when a fraction `share` of the draws
    comes from the M samples outside the bias-amplified set.

    Samples outside are drawn with probability `(1 - share) / N + share / M` instead of 1 / N, those inside with
    `(1 - share) / N`. With M = 0 all draws are uniform and all weights 1.
    """
    share = share if num_outside else 0.0
    inside = 1 / (1 - share)
    outside = 1 / (1 - share + share * num_samples / max(num_outside, 1))
    return torch.where(in_amplified_set, inside, outside)
