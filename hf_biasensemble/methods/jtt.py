"""Just Train Twice: the second classifier sees the errors of the first one more often."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch.utils.data import Sampler

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.options import AT_LEAST_1, option
from hf_biasensemble.data.batches.sampling import WeightedSampler
from hf_biasensemble.methods.erm import ErmTrainer
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors.erm_errors import SELECTOR as ERM_ERRORS


@dataclass
class JttArguments(DebiasingArguments):
    """Options of JTT."""

    _argument_group_name: ClassVar[str] = "method: JTT"

    upweight: Annotated[float, AT_LEAST_1] = option(
        20.0, "How many times as often errors of the first classifier are drawn, 1 or more; JTT's lambda."
    )


class JttTrainer(ErmTrainer):
    """Second stage of JTT (https://arxiv.org/abs/2107.09044, algorithm 1): cross entropy on samples among which the
    errors of the first stage, outside the selected set, are drawn `upweight` times as often. Logs
    `loss_classification`."""

    def __init__(self, *args: Any, selection: Selection, **kwargs: Any):
        super().__init__(*args, **kwargs)
        right = torch.from_numpy(selection.mask(len(self.train_dataset.labels)))[self.train_dataset.rows]
        self.sampler = WeightedSampler(torch.where(right, 1.0, self.args.upweight), self.args.seed)

    def train_sampler(self) -> Sampler | None:
        return self.sampler


METHOD = Method(
    name="jtt",
    title="JTT",
    trainer=JttTrainer,
    arguments=JttArguments,
    network=classifier_alone,
    selector=ERM_ERRORS,
    baseline="erm",
    about=(
        "JTT ([Liu et al., 2021](https://huggingface.co/papers/2107.09044)): the published classifier is trained with "
        "cross entropy on batches in which each of these images is {upweight} times as frequent as any other."
    ),
    citations=(
        """\
@inproceedings{liu2021just,
  title     = {Just Train Twice: Improving Group Robustness without Training Group Information},
  author    = {Liu, Evan Z. and Haghgoo, Behzad and Chen, Annie S. and Raghunathan, Aditi and Koh, Pang Wei and
               Sagawa, Shiori and Liang, Percy and Finn, Chelsea},
  booktitle = {ICML},
  year      = {2021}
}""",
    ),
)
