"""DisEnt: intrinsic and bias features are disentangled, and bias features swapped between images."""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.options import NonNegativeFloat, Steps, option
from hf_biasensemble.internal.collectives import gather_rows
from hf_biasensemble.losses.objectives import cross_entropy
from hf_biasensemble.methods import lff
from hf_biasensemble.models.build import disentangled
from hf_biasensemble.trainers.relative_difficulty import RelativeDifficultyArguments, RelativeDifficultyTrainer

logger = logging.getLogger(__name__)


@dataclass
class DisentArguments(RelativeDifficultyArguments):
    """Options of DisEnt."""

    _argument_group_name: ClassVar[str] = "method: DisEnt"

    lambda_dis: NonNegativeFloat = option(
        1.0, "Factor of the bias head's loss, 0 or more; the authors' --lambda_dis_align."
    )
    lambda_swap: NonNegativeFloat = option(1.0, "Factor of both losses on swapped features, 0 or more; --lambda_swap.")
    lambda_swap_bias: NonNegativeFloat = option(
        1.0, "Further factor of the bias head's loss on swapped features, 0 or more; --lambda_swap_align."
    )
    swap_start_step: Steps = option(
        0.2,
        "Bias features are swapped after this many steps; below 1: a fraction of max_steps; the authors' --curr_step.",
    )


class DisentTrainer(RelativeDifficultyTrainer):
    """DisEnt (https://huggingface.co/papers/2107.01372) or, given a selection, DisEnt + BiasEnsemble.

    The intrinsic head C_i minimises the weighted cross entropy; the bias head C_b minimises the loss of LfF's biased
    model f_B, times `lambda_dis`. After `swap_start_step` steps, bias features are also permuted within the batch.
    C_i must still predict the label of the image, with the same weight, and C_b the label of the image that its bias
    features come from, times `lambda_swap_bias`. Both terms are multiplied by `lambda_swap`.

    Logs `loss_debiased`, `loss_biased` and, once the swap has started, `loss_swapped_debiased` and
    `loss_swapped_biased`, including their factors.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        start = self.args.in_steps("swap_start_step")
        if self.args.lambda_swap and start >= self.args.max_steps - 1 and self.args.should_save:
            logger.warning(
                "warning: the swap of bias features never starts: swap_start_step %d, max_steps %d; lower "
                "--swap_start_step, for instance to the fraction 0.2",
                start,
                self.args.max_steps,
            )

    def swap_permutation(self, batch_size: int) -> torch.Tensor | None:
        """Positions (B,) in the batch of all processes that the bias features come from: a random permutation, drawn
        from torch's global generator. `None` before the swap starts."""
        if self.state.global_step <= self.args.in_steps("swap_start_step"):
            return None
        return self.part.permutation(batch_size, self.args.device)

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        labels, index = batch["labels"], batch["index"]
        permutation = self.swap_permutation(len(labels))
        outputs = model(pixel_values=batch["pixel_values"], swap_permutation=permutation)
        debiased_loss = cross_entropy(outputs["logits"], labels)
        weight = self.weigh(index, cross_entropy(outputs["biased_logits"], labels), debiased_loss)
        terms = {
            "debiased": self.part.mean(weight * debiased_loss),
            "biased": self.args.lambda_dis * self.biased_term(outputs["biased_logits"], labels, index),
        }
        if permutation is not None:
            swapped_loss = cross_entropy(outputs["swapped_logits"], labels)
            labels, index = gather_rows(labels)[permutation], gather_rows(index)[permutation]
            swapped_biased_term = self.biased_term(outputs["swapped_biased_logits"], labels, index)
            terms["swapped_debiased"] = self.args.lambda_swap * self.part.mean(weight * swapped_loss)
            terms["swapped_biased"] = self.args.lambda_swap * self.args.lambda_swap_bias * swapped_biased_term
        return terms


_CITATION = """\
@inproceedings{lee2021learning,
  title     = {Learning Debiased Representation via Disentangled Feature Augmentation},
  author    = {Lee, Jungsoo and Kim, Eungyeup and Lee, Juyoung and Lee, Jihyeon and Choo, Jaegul},
  booktitle = {NeurIPS},
  year      = {2021}
}"""


def about(biased_set: str) -> str:
    """Text of the model card; `biased_set` names the images that the bias encoder learns from."""
    return (
        "DisEnt ([Lee et al., 2021](https://huggingface.co/papers/2107.01372)): one encoder should capture what "
        f"defines the class, the other what merely correlates with it. The second learns from {biased_set}; the first "
        "learns most from images that are hard for the second. Later, the second encoder's features are swapped "
        "between images, which shows the classifier classes with attributes that they rarely occur with. Both "
        "encoders are part of the published model."
    )


METHOD = Method(
    name="disent",
    title="DisEnt",
    trainer=DisentTrainer,
    arguments=DisentArguments,
    network=disentangled,
    unused=frozenset({"conflicting_share"}),
    baseline="erm",
    about=about(lff.EASY_IMAGES),
    citations=(*lff.METHOD.citations, _CITATION),  # DisEnt weights images like LfF
)
