"""GroupDRO on pseudo-groups: groups with the highest loss count most, without group labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.options import PositiveFloat, option
from hf_biasensemble.internal.collectives import mean_of_processes
from hf_biasensemble.internal.errors import require
from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.trainers.pseudo_groups import PseudoGroupArguments, PseudoGroupTrainer


@dataclass
class GroupDroArguments(PseudoGroupArguments):
    """Options of GroupDRO."""

    _argument_group_name: ClassVar[str] = "method: GroupDRO"

    group_step_size: PositiveFloat = option(
        0.01, "Step size of the group weights, above 0; eta in algorithm 1 of GroupDRO."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        accumulated = self.gradient_accumulation_steps  # the weights need the losses of the whole step first
        require(accumulated == 1, "--gradient_accumulation_steps", "1 with group_dro_be", accumulated)


class GroupDroTrainer(PseudoGroupTrainer):
    """GroupDRO (https://arxiv.org/abs/1911.08731, algorithm 1) on pseudo-groups. Logs `loss_worst_groups`.

    Each step multiplies the weight q_g of each group by exp(eta * L_g), where L_g is the mean loss of the group in the
    batch, normalises the weights to sum 1, and minimises sum_g q_g * L_g.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.weights = torch.full((self.num_groups,), 1 / self.num_groups, device=self.args.device)

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        losses = cross_entropy(model(pixel_values=batch["pixel_values"])["logits"], batch["labels"])
        means = self.part.mean(losses, self.groups[batch["index"]])
        weights = self.weights * (self.args.group_step_size * mean_of_processes(means.detach())).exp()
        self.weights = weights / weights.sum()
        return {"worst_groups": (self.weights * means).sum()}

    def method_state(self) -> dict[str, torch.Tensor]:
        return {"group_weights": self.weights.cpu()}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        self.weights = state["group_weights"].to(self.args.device)


METHOD = Method(
    name="group_dro_be",
    title="GroupDRO on pseudo-groups",
    trainer=GroupDroTrainer,
    arguments=GroupDroArguments,
    network=classifier_alone,
    selector=BIAS_ENSEMBLE,
    needs_set=False,
    baseline="erm",
    about=(
        "GroupDRO ([Sagawa et al., 2020](https://huggingface.co/papers/1911.08731)) without group labels: images are "
        "grouped by class and votes (`pseudo_groups: {pseudo_groups}`), and the groups with the highest loss count "
        "most."
    ),
    citations=(
        """\
@inproceedings{sagawa2020distributionally,
  title     = {Distributionally Robust Neural Networks for Group Shifts},
  author    = {Sagawa, Shiori and Koh, Pang Wei and Hashimoto, Tatsunori B. and Liang, Percy},
  booktitle = {ICLR},
  year      = {2020}
}""",
    ),
)
