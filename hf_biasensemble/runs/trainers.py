"""Trainers with the interface of `transformers.Trainer`, for a plain `datasets.Dataset` and a network or its name."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import PredictionOutput, TrainOutput

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.folders.output_folder import checkpoint_to_resume, results_in, written_in
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import (
    disent,
    erm,
    group_dro_be,
    jtt,
    last_layer_be,
    lff,
    logit_adjusted,
    product_of_experts,
)
from hf_biasensemble.models.backbones import without_bar
from hf_biasensemble.runs.prepared import Prepared
from hf_biasensemble.runs.trainer_setup import TrainerSetup
from hf_biasensemble.trainers import base

_UNSUPPORTED = {
    "compute_metrics": "accuracy by group is always measured",
    "preprocess_logits_for_metrics": "accuracy by group is always measured",
    "data_collator": "splits build whole batches themselves",
    "optimizers": "the optimiser is Adam, with the options of args",
    "model_init": "pass the function as model",
}


class DebiasingTrainer(base.DebiasingTrainer):
    """[`trainers.base.DebiasingTrainer`] for plain datasets and networks.

    Args:
        model (`str`, `ModelArguments`, `PreTrainedModel`, `Callable` or `nn.Module`): Name of a backbone, as for
            `--backbone`, or `ModelArguments` to set `pretrained`, `freeze_backbone`, ...; a transformers model to
            start from, or a function that builds one, which is saved in `output_dir/initial_model`; or the complete
            network. Not needed for vectors (`data_args.feature_column`).
        args (`DebiasingArguments`): Training settings: the method's own arguments or the general ones.
        transform (`ImageTransform`, *optional*): Defaults to the backbone's preprocessing.
        train_dataset (`Dataset`, `DatasetDict` or `ImageSplit`): Images with labels. A `DatasetDict` is trained on
            `train`, and evaluated on `validation` and `test` if there is no `eval_dataset`.
        eval_dataset (`Dataset`, `dict` or `ImageSplit`, *optional*): One dataset, or several by name, which prefixes
            their metrics.
        callbacks (`list[TrainerCallback]`, *optional*): Additional callbacks.
        selection_args (`SelectionArguments`, *optional*): How to make the selection, if the method needs one and no
            `selection` is given. It is made in the constructor and saved in `output_dir/selection`, or reused from it.
        data_args (`DataArguments`, *optional*): Column names and splits to hold out.
        processing_class (*optional*): Image processor of a `PreTrainedModel`.

    Raises:
        `BiasEnsembleError`: If data, network, settings and method do not match.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        transform: ImageTransform | FeatureTransform | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        callbacks: list | None = None,
        *,
        selection_args: Any = None,
        data_args: DataArguments | None = None,
        processing_class: Any = None,
        **kwargs: Any,
    ):
        self._setup: TrainerSetup | None = None
        for name, reason in _UNSUPPORTED.items():
            if kwargs.pop(name, None) is not None:
                raise BiasEnsembleError(f"{type(self).__name__}: expected no {name}, found one; {reason}")
        is_prepared = transform is not None and isinstance(train_dataset, ImageSplit | None)
        if not is_prepared or not isinstance(model, nn.Module):
            with without_bar():
                self._setup = setup = TrainerSetup.of(
                    type(self),
                    model,
                    args,
                    train_dataset,
                    eval_dataset,
                    selection_args,
                    data_args,
                    processing_class,
                    makes_selection=kwargs.get("selection") is None,
                    callbacks=callbacks or (),
                )
            model, args, transform = setup.network, setup.prepared.args, transform or setup.inputs.transform
            eval_dataset = dict(setup.inputs.splits)
            train_dataset = eval_dataset.pop("train")
            if setup.selection is not None:
                kwargs["selection"] = setup.selection
        super().__init__(
            model,
            args,
            transform,  # type: ignore[arg-type]
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
            **kwargs,
        )
        if self._setup:
            self.publisher = self._setup.inputs.publish

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """See `Trainer.train`. Another run in `output_dir` is only replaced if `overwrite_output_dir` is set.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): `True` for the last checkpoint in `output_dir`, or
                the folder of a checkpoint. Data, settings and seed must be the same as before.

        Raises:
            `BiasEnsembleError`: If `output_dir` or the checkpoint belongs to another run, or the loss is not finite.
        """
        checkpoint: Any = resume_from_checkpoint
        if self._setup:
            asked = self.args.resume_from_checkpoint if checkpoint is None else checkpoint
            self.args.resume_from_checkpoint = None if asked is None else str(asked)
            checkpoint = checkpoint_to_resume(self.args)
            self._claim_folder(replace(self._setup.prepared, args=self.args), checkpoint)
        with without_bar():
            trained = super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)
        if self._setup and self.args.checkpoint_choice != "last":
            self.publish()
        return trained

    def _claim_folder(self, prepared: Prepared, checkpoint: Path | None) -> None:
        """Refuses or removes another run in `output_dir`, then writes the settings of this one."""
        folder = Path(self.args.output_dir)
        if self.args.resume_from_checkpoint:
            prepared.settle_steps(checkpoint)
        elif self.state.global_step == 0:
            held = [path for path in results_in(folder) if path.name != "selection"]
            if held and not self.args.overwrite_output_dir:
                raise BiasEnsembleError(
                    f"output_dir {folder} holds another run ({held[0].name}); continue it with "
                    "train(resume_from_checkpoint=True), replace it with overwrite_output_dir=True, or name another"
                )
            for path in written_in(folder) if self.args.should_save else []:
                if path.name != "selection":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.args.should_save:
            prepared.settings["schedule_steps"] = self.args.schedule_steps
            prepared.write_settings(folder)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """See [`trainers.base.DebiasingTrainer`]; also takes a plain dataset, or several by name."""
        if self._setup and eval_dataset is not None:
            eval_dataset = self._setup.splits_of(eval_dataset, metric_key_prefix)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """See [`trainers.base.DebiasingTrainer`]; also takes a plain dataset."""
        if self._setup:
            test_dataset = self._setup.splits_of(test_dataset, metric_key_prefix)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)


class ErmTrainer(DebiasingTrainer, erm.ErmTrainer):
    """[`methods.erm.ErmTrainer`], the ordinary classifier, for plain datasets."""


class LffTrainer(DebiasingTrainer, lff.LffTrainer):
    """[`methods.lff.LffTrainer`] for plain datasets: LfF + BiasEnsemble, or LfF alone with `method="lff"`."""


class DisentTrainer(DebiasingTrainer, disent.DisentTrainer):
    """[`methods.disent.DisentTrainer`] for plain datasets: DisEnt + BiasEnsemble, or DisEnt alone with
    `method="disent"`."""


class JttTrainer(DebiasingTrainer, jtt.JttTrainer):
    """[`methods.jtt.JttTrainer`] for plain datasets."""


class GroupDroTrainer(DebiasingTrainer, group_dro_be.GroupDroTrainer):
    """[`methods.group_dro_be.GroupDroTrainer`] for plain datasets."""


class LastLayerTrainer(DebiasingTrainer, last_layer_be.LastLayerTrainer):
    """[`methods.last_layer_be.LastLayerTrainer`] for plain datasets."""


class LogitAdjustedTrainer(DebiasingTrainer, logit_adjusted.LogitAdjustedTrainer):
    """[`methods.logit_adjusted.LogitAdjustedTrainer`] for plain datasets."""


class ProductOfExpertsTrainer(DebiasingTrainer, product_of_experts.ProductOfExpertsTrainer):
    """[`methods.product_of_experts.ProductOfExpertsTrainer`] for plain datasets."""
