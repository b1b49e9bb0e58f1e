"""What methods on pseudo-groups share: groups of class and members' opinion, and batches that balance them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import Sampler

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.arguments.options import option, require
from hf_biasensemble.data.batches.sampling import WeightedSampler
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.selection import PSEUDO_GROUPS, Selection
from hf_biasensemble.trainers.base import DebiasingTrainer


@dataclass
class PseudoGroupArguments(DebiasingArguments):
    """Options of methods on pseudo-groups, beside those that all methods have."""

    _argument_group_name: ClassVar[str] = "method: pseudo-groups"

    pseudo_groups: str = option(
        "predicted",
        "What makes a group, with the class: predicted (what the members hold the image to be) or selected (whether "
        "it is in the bias-amplified set).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        found = self.pseudo_groups
        require(found in PSEUDO_GROUPS, "--pseudo_groups", f"one of {', '.join(PSEUDO_GROUPS)}", found)


class PseudoGroupTrainer(DebiasingTrainer):
    """Knows the pseudo-group of each training sample, and draws from each group equally often.

    Args:
        args (`PseudoGroupArguments`): Settings.
        train_dataset (`ImageSplit`): The training split.
        selection (`Selection`): Votes on it.

    Attributes:
        groups: int64 (N,), the pseudo-group of each row of the training split, in [0, num_groups).
    """

    def __init__(
        self,
        model: nn.Module,
        args: PseudoGroupArguments,
        transform: ImageTransform | FeatureTransform,
        train_dataset: ImageSplit,
        selection: Selection,
        **kwargs: Any,
    ):
        super().__init__(model, args, transform, train_dataset, **kwargs)
        found, num_groups = selection.pseudo_groups(args.pseudo_groups, len(train_dataset.labels))
        self.groups = torch.from_numpy(found).to(self.args.device)
        self.group_samples(self.groups, num_groups)
        drawn = torch.from_numpy(found)[train_dataset.rows]
        self.sampler = WeightedSampler(1 / torch.bincount(drawn, minlength=num_groups)[drawn], args.seed)

    def train_sampler(self) -> Sampler | None:
        return self.sampler
