"""The modules that are trained: a pair of biased and debiased networks, and the ensemble of biased members.

Each does all its trainable work in one `forward`, as data parallelism requires. Checkpoints hold the whole module, but
only `pair.debiased` is published.
"""

from collections.abc import Sequence

import torch
from torch import nn

from hf_biasensemble.internal.collectives import gather_rows
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier


class BiasedDebiasedPair(nn.Module):
    """Biased model f_B and debiased model f_D of LfF on the same batch; only f_D runs in evaluation mode."""

    accepts_loss_kwargs = False

    def __init__(self, biased: DebiasedImageClassifier, debiased: DebiasedImageClassifier):
        super().__init__()
        self.biased = biased
        self.debiased = debiased

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (B, K): `logits` of f_D and, while training, `biased_logits` of f_B."""
        logits = {"logits": self.debiased(pixel_values).logits}
        if self.training:
            logits["biased_logits"] = self.biased(pixel_values).logits
        return logits


class DisentangledPair(nn.Module):
    """The two encoders and two heads of DisEnt (https://huggingface.co/papers/2107.01372).

    `debiased` holds the intrinsic encoder E_i, the bias encoder E_b and the intrinsic head C_i; `bias_classifier` is
    C_b. Each head trains only its own encoder: the other encoder's features are detached.
    """

    accepts_loss_kwargs = False

    def __init__(self, debiased: DebiasedImageClassifier, bias_classifier: nn.Linear):
        super().__init__()
        self.debiased = debiased
        self.bias_classifier = bias_classifier

    def forward(
        self, pixel_values: torch.Tensor, swap_permutation: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Logits (B, K): `logits` of C_i and, while training, `biased_logits` of C_b.

        A `swap_permutation` (B,) adds `swapped_logits` and `swapped_biased_logits`, with the bias features of other
        samples. It indexes the batches of all processes, concatenated.
        """
        if not self.training:
            return {"logits": self.debiased(pixel_values).logits}
        intrinsic, bias = self.debiased.encoders()
        intrinsic, bias = intrinsic(pixel_values), bias(pixel_values)
        logits = self._heads(intrinsic, bias)
        if swap_permutation is not None:
            swapped = self._heads(intrinsic, gather_rows(bias)[swap_permutation])
            logits |= {f"swapped_{name}": value for name, value in swapped.items()}
        return logits

    def _heads(self, intrinsic: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "logits": self.debiased.classifier(torch.cat([intrinsic, bias.detach()], dim=1)),
            "biased_logits": self.bias_classifier(torch.cat([intrinsic.detach(), bias], dim=1)),
        }


class MemberEnsemble(nn.Module):
    """The biased members of BiasEnsemble, trained side by side."""

    accepts_loss_kwargs = False

    def __init__(self, members: list[DebiasedImageClassifier]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(
        self, pixel_values: torch.Tensor, numbers: Sequence[int] | None = None, per_member: bool = False
    ) -> dict[str, torch.Tensor]:
        """`logits` (B, M, K) of all members, or of those in `numbers` (rising), from one batch (B, ...) or, with
        `per_member`, one for each (B, M, ...)."""
        members = [member for number, member in enumerate(self.members) if numbers is None or number in numbers]
        batches = pixel_values.unbind(1) if per_member else [pixel_values] * len(members)
        logits = [member(batch).logits for member, batch in zip(members, batches, strict=True)]
        return {"logits": torch.stack(logits, dim=1)}
