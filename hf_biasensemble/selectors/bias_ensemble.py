"""BiasEnsemble: images that briefly trained, biased members classify with high confidence are bias-aligned."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.arguments import DebiasingArguments, ModelArguments, SelectionArguments, member_arguments
from hf_biasensemble.arguments.descriptors import Selector
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import training_transform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.build import build_members
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer


def member_trainer(
    model_args: ModelArguments,
    selection_args: SelectionArguments,
    args: DebiasingArguments,
    splits: dict[str, ImageSplit],
    callbacks: Sequence[TrainerCallback],
    **rules: Any,
) -> BiasEnsembleTrainer:
    """Creates the trainer of the members.

    Args:
        model_args (`ModelArguments`): Their network.
        selection_args (`SelectionArguments`): Their number, and how they are trained and vote.
        args (`DebiasingArguments`): Settings of the run.
        splits (`dict[str, ImageSplit]`): `train` and, if there is one, `validation`.
        callbacks (`Sequence[TrainerCallback]`): Callbacks for training the members.
        rules (*optional*): `loss` and `rule` of [`BiasEnsembleTrainer`].

    Raises:
        `BiasEnsembleError`: With `keep_member="best"` and no validation split.
    """
    if selection_args.keep_member == "best" and "validation" not in splits:
        raise BiasEnsembleError("--keep_member best: expected a validation split to choose by, found none; use last")
    rate = selection_args.member_learning_rate or args.learning_rate
    batch_size = selection_args.member_batch_size or args.per_device_train_batch_size
    scale = selection_args.member_image_scale or model_args.image_scale
    networks = selection_args.num_members * (2 if selection_args.cross_fit else 1)
    return BiasEnsembleTrainer(
        build_members(model_args, splits["train"].class_names, networks, args.seed),
        member_arguments(args, selection_args.member_steps, rate, batch_size),
        training_transform(splits["train"], replace(model_args, image_scale=scale)),
        selection_args,
        train_dataset=splits["train"],
        eval_dataset={name: split for name, split in splits.items() if name == "validation"},
        callbacks=list(callbacks),
        **rules,
    )


SELECTOR = Selector(
    name="bias_ensemble",
    title="BiasEnsemble members",
    trainer=member_trainer,
    arguments=SelectionArguments,
    judges=True,
    about=(
        "BiasEnsemble ([Lee et al., 2023](https://huggingface.co/papers/2205.14594)): {num_members} biased networks "
        "are trained for {member_steps} steps each. The bias-amplified set consists of the images that at least "
        "{member_agreement} of them assign to their class with probability above {member_threshold}: so early in "
        "training, such confidence usually comes from the shortcut."
    ),
    citations=(
        """\
@inproceedings{lee2023biasensemble,
  title     = {Revisiting the Importance of Amplifying Bias for Debiasing},
  author    = {Lee, Jungsoo and Park, Jeonghoon and Kim, Daeyoung and Lee, Juyoung and Choi, Edward and Choo, Jaegul},
  booktitle = {AAAI},
  year      = {2023}
}""",
    ),
)
