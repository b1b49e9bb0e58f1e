"""Training on logits plus a log-prior from what the biased members predict, so that the model learns the rest."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.arguments.options import NonNegativeFloat, option
from hf_biasensemble.internal.processes import print_once
from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.selection import Selection, outdated
from hf_biasensemble.trainers.base import DebiasingTrainer

FEWEST_CONTRADICTING = 10


@dataclass
class MemberPriorArguments(DebiasingArguments):
    """Options of methods that train on top of what the members predict, beside those that all methods have."""

    _argument_group_name: ClassVar[str] = "method: members as a prior"

    adjustment_tau: NonNegativeFloat = option(
        1.0, "How much of the members' log-probability is added to the logits in training, 0 or more; 0 is ERM."
    )


class MemberPriorTrainer(DebiasingTrainer):
    """Mean cross entropy of logits + `adjustment_tau` * [`~MemberPriorTrainer.log_prior`]. The model is evaluated by
    its own logits. Logs `loss_classification`.

    Args:
        selection (`Selection`): The members' predictions for the training split.
    """

    def __init__(self, *args: Any, selection: Selection, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if selection.probabilities is None:
            raise outdated(f"--method {self.args.method}", "how probable the members find each class")
        if selection.provenance.get("cross_fit") is False:
            print_once(
                "note: the members were trained on the images whose classes they predict, so they may have learned "
                "more of these than the shortcut; --cross_fit true lets them predict images they never saw"
            )
        contradicting = np.count_nonzero(selection.predicted_labels != selection.labels)
        if contradicting < FEWEST_CONTRADICTING:
            print_once(
                f"warning: the members classify all but {contradicting} of {len(selection.labels):,} training images "
                "correctly: what they know leaves the classifier hardly anything to learn, and there is no sign of a "
                "shortcut; --method erm trains without them"
            )
        self.num_classes = len(self.train_dataset.class_names)
        self.probabilities = self.on_device(selection, selection.probabilities)
        self.probability_classes: torch.Tensor | None = None
        if selection.probability_classes is not None:
            self.probability_classes = self.on_device(selection, selection.probability_classes)

    def on_device(self, selection: Selection, values: np.ndarray) -> torch.Tensor:
        """Values (N, ...) of a selection by row of the training split, on the device."""
        return torch.from_numpy(selection.by_row(values, len(self.train_dataset.labels))).to(self.args.device)

    def member_probabilities(self, index: torch.Tensor) -> torch.Tensor:
        """Mean probability (B, K) of each class over the members, of training samples (B,). Of many classes only
        the most probable ones are known; the rest of the probability is spread evenly over the others."""
        known = self.probabilities.index_select(0, index).float()
        if self.probability_classes is None:
            return known
        classes = self.probability_classes.index_select(0, index).long()
        others = self.num_classes - known.shape[1]
        rest = (1 - known.sum(dim=1, keepdim=True)).clamp(min=0) / others
        return rest.repeat(1, self.num_classes).scatter(1, classes, known)

    def log_prior(self, index: torch.Tensor) -> torch.Tensor:
        """What is added to the logits of training samples (B,), up to its factor: (B, K)."""
        raise NotImplementedError

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits = model(pixel_values=batch["pixel_values"])["logits"]
        adjusted = logits.float() + self.args.adjustment_tau * self.log_prior(batch["index"])
        return {"classification": self.part.mean(cross_entropy(adjusted, batch["labels"]))}
