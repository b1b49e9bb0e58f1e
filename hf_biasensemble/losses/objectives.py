"""The losses of the method as pure functions: tensors in, tensors out, nothing remembered.

Shapes: B samples in the batch, K classes. Per-sample values are float32 whatever the precision of the logits.
"""

from collections.abc import Callable

import torch
from torch.nn import functional


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each sample: logits (..., K), labels (...) -> (...)."""
    losses = functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none")
    return losses.view(labels.shape)


def generalized_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, q: float = 0.7) -> torch.Tensor:
    """Generalized cross entropy of each sample, in the form LfF uses: CE * q * p_y^q with p_y^q held constant.

    Its gradient is that of the cross entropy, weighted by how sure the model already is, so that easy samples teach
    most (https://huggingface.co/papers/2007.02561, section 3.1).

    Args:
        logits (`torch.Tensor` of shape (..., K)): Unnormalised scores.
        labels (`torch.Tensor` of shape (...)): True classes.
        q (`float`, *optional*, defaults to 0.7): Strength of the amplification, above 0; near 0 all count alike.

    Returns:
        `torch.Tensor` of shape (...), float32.
    """
    loss = cross_entropy(logits, labels)
    # p_y^q as exp(-q * CE): p_y itself is 0 in float32 for a sample that is very wrong, and would silence it.
    return loss * q * (-q * loss.detach()).exp()


def true_class_probability(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Softmax probability of the true class: logits (..., K), labels (...) -> (...), float32."""
    return logits.float().softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of the values (B,) where the mask (B,) holds, or of all; 0 where it holds nowhere."""
    if mask is None:
        return values.mean(dim=0)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def group_sums(values: torch.Tensor, groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Sum of the values (B,) of each group (G,): groups (B,) int64 in [0, G)."""
    return values.new_zeros(num_groups).index_add(0, groups, values)


def relative_difficulty(biased: torch.Tensor, debiased: torch.Tensor, epsilon: float = 1e-8) -> torch.Tensor:
    """Weight of each sample for the debiased model: L_B / (L_B + L_D) of losses (B,) scaled to their class maximum.

    Near 1 where only the biased model finds a sample hard (bias-conflicting), near 0 where the biased model finds it
    easy (https://huggingface.co/papers/2007.02561, equation 2).
    """
    return biased / (biased + debiased + epsilon)


def biased_objective(
    logits: torch.Tensor,
    labels: torch.Tensor,
    in_amplified_set: torch.Tensor | None,
    q: float,
    mean: Callable[..., torch.Tensor] = masked_mean,
) -> torch.Tensor:
    """What the biased model minimises.

    With the bias-amplified set: mean cross entropy of the batch members in it (BiasEnsemble,
    https://huggingface.co/papers/2205.14594). Without: mean generalized cross entropy of the batch (LfF, DisEnt).

    Args:
        logits (`torch.Tensor` of shape (B, K)): Scores of the biased model.
        labels (`torch.Tensor` of shape (B,)): True classes.
        in_amplified_set (`torch.Tensor` of shape (B,), *optional*): Whether each sample is in the bias-amplified set.
        q (`float`): Exponent of the generalized cross entropy.
        mean (`Callable`, *optional*, defaults to [`masked_mean`]): Takes values (B,) and, maybe, a mask (B,).
    """
    if in_amplified_set is None:
        return mean(generalized_cross_entropy(logits, labels, q))
    return mean(cross_entropy(logits, labels), in_amplified_set)


def importance_weights(
    in_amplified_set: torch.Tensor, share: float, num_samples: int, num_outside: int
) -> torch.Tensor:
    """Factors that undo, in the mean, what drawing a share of the samples from outside the bias-amplified set does.

    A sample outside is drawn with probability `(1 - share) / N + share / M` instead of 1 / N, one inside with
    `(1 - share) / N`. Multiplied by these factors, the expected loss is that of uniform draws; only its variance is
    another.

    Args:
        in_amplified_set (`torch.Tensor` of shape (B,), bool): Whether each sample is in the set.
        share (`float`): Share of draws from outside the set, in [0, 1).
        num_samples (`int`): Training samples N.
        num_outside (`int`): How many of them are outside the set, M; if 0, all draws are uniform and all factors 1.

    Returns:
        `torch.Tensor` of shape (B,), float32.
    """
    share = share if num_outside else 0.0
    inside = 1 / (1 - share)
    outside = 1 / (1 - share + share * num_samples / max(num_outside, 1))
    return torch.where(in_amplified_set, inside, outside)
