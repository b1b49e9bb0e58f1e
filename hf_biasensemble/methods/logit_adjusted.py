"""Logit adjustment: the members' predictions serve as a prior, so the classifier learns the rest."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.options import one_of, option
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.trainers.member_prior import MemberPriorArguments, MemberPriorTrainer


@dataclass
class LogitAdjustedArguments(MemberPriorArguments):
    """Options of logit adjustment."""

    _argument_group_name: ClassVar[str] = "method: logit adjustment"

    adjustment: Annotated[str, one_of("hard", "soft")] = option(
        "hard",
        "Prior of an image: hard (of the class that the members predict) or soft (the mean over all classes, weighted "
        "by the members' probabilities).",
    )


class LogitAdjustedTrainer(MemberPriorTrainer):
    """Logit adjustment (https://huggingface.co/papers/2310.18562). Logs `loss_classification`.

    The prior is log P(y | x) with P(y | x) = sum_s p(s | x) P(y | s), where s is the class that the members predict.
    P(y | s) is counted on the training images, plus one of each class.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        selection, count = kwargs["selection"], self.num_classes
        pairs = torch.from_numpy(selection.predicted_labels * count + selection.labels)
        cells = torch.bincount(pairs, minlength=count**2).view(count, count) + 1
        self.label_given_predicted = (cells / cells.sum(dim=1, keepdim=True)).to(self.args.device)
        self.predicted = self.on_device(selection, selection.predicted_labels)

    def log_prior(self, index: torch.Tensor) -> torch.Tensor:
        if self.args.adjustment == "hard":
            return self.label_given_predicted.index_select(0, self.predicted.index_select(0, index)).log()
        return (self.member_probabilities(index) @ self.label_given_predicted).log()


METHOD = Method(
    name="logit_adjusted",
    title="Logit adjustment",
    trainer=LogitAdjustedTrainer,
    arguments=LogitAdjustedArguments,
    network=classifier_alone,
    selector=BIAS_ENSEMBLE,
    needs_set=False,
    baseline="erm",
    about=(
        "Logit adjustment ([Tsirigotis et al., 2023](https://huggingface.co/papers/2310.18562)): in training, "
        "{adjustment_tau} times the log-probability of each class given the members' prediction ({adjustment}) is "
        "added to the logits. This accounts for the shortcut, and the classifier learns the rest."
    ),
    citations=(
        """\
@inproceedings{tsirigotis2023group,
  title     = {Group Robust Classification Without Any Group Information},
  author    = {Tsirigotis, Christos and Monteiro, Joao and Rodriguez, Pau and Vazquez, David and Courville, Aaron},
  booktitle = {NeurIPS},
  year      = {2023}
}""",
    ),
)
