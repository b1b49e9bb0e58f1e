"""Training on top of the members' predictions: their log-prior is added to the logits."""

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
    """Options of methods that train on top of the members' predictions."""

    _argument_group_name: ClassVar[str] = "method: members as a prior"

    adjustment_tau: NonNegativeFloat = option(
        1.0, "How much of the members' log-probability is added to the logits in training, 0 or more; 0 is ERM."
    )


class MemberPriorTrainer(DebiasingTrainer):
    """Minimises the mean cross entropy of logits + `adjustment_tau` * [`~MemberPriorTrainer.log_prior`]. Evaluation
    uses the logits alone. Logs `loss_classification`.

    Args:
        selection (`Selection`): The members' predictions for the training split.
    """

    def __init__(self, *args: Any, selection: Selection, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if selection.probabilities is None:
            raise outdated(f"--method {self.args.method}", "how probable the members find each class")
        if selection.provenance.get("cross_fit") is False:
            print_once(
                "note: the members were trained on the images whose classes they predict, so they may know more than "
                "the shortcut; with --cross_fit true they predict images that they were not trained on"
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
        """Moves values (N, ...) of a selection to the device, by row of the training split."""
        return torch.from_numpy(selection.by_row(values, len(self.train_dataset.labels))).to(self.args.device)

    def member_probabilities(self, index: torch.Tensor) -> torch.Tensor:
        """Mean probabilities (B, K) by the members for training samples (B,). If only the most probable classes are
        stored, the remaining probability is spread evenly over the others."""
        known = self.probabilities.index_select(0, index).float()
        if self.probability_classes is None:
            return known
        classes = self.probability_classes.index_select(0, index).long()
        rest = (1 - known.sum(dim=1, keepdim=True)).clamp(min=0) / (self.num_classes - known.shape[1])
        return rest.repeat(1, self.num_classes).scatter(1, classes, known)

    def log_prior(self, index: torch.Tensor) -> torch.Tensor:
        """Prior (B, K) of training samples (B,), to be multiplied by `adjustment_tau` and added to their logits."""
        raise NotImplementedError

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits = model(pixel_values=batch["pixel_values"])["logits"]
        adjusted = logits.float() + self.args.adjustment_tau * self.log_prior(batch["index"])
        return {"classification": self.part.mean(cross_entropy(adjusted, batch["labels"]))}
