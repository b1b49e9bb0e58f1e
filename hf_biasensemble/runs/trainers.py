"""The trainers with the interface of a `Trainer`: they take a plain `datasets.Dataset`, and a network or its name.

`handed_in.py` turns these into what the trainers below work with; a run passes that to them directly.
"""

import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import PredictionOutput, TrainOutput

from hf_biasensemble.arguments import DataArguments, settle_steps
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.folders.output_folder import check_same_run, checkpoint_to_resume, results_in, written_in
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
from hf_biasensemble.runs.handed_in import HandedIn
from hf_biasensemble.trainers import base

_NOT_TAKEN = {
    "compute_metrics": "accuracy by group is always measured",
    "preprocess_logits_for_metrics": "accuracy by group is always measured",
    "data_collator": "splits make whole batches themselves",
    "optimizers": "the optimizer is Adam, with the options of args",
    "model_init": "hand the function in as model",
}


class DebiasingTrainer(base.DebiasingTrainer):
    """[`trainers.base.DebiasingTrainer`] for plain datasets and networks.

    Args:
        model (`str`, `ModelArguments`, `PreTrainedModel`, `Callable` or `nn.Module`): A backbone as `--backbone` names
            it; `ModelArguments` say more of it (`pretrained`, `freeze_backbone`, ...). A model of transformers to
            start from, or a function that builds one, is kept in `output_dir/initial_model`. Or the finished network.
            Not needed for the vectors of `data_args.feature_column`.
        args (`DebiasingArguments`): Settings. Those that all methods have do for each method.
        transform (`ImageTransform`, *optional*): By default the preprocessing of the backbone.
        train_dataset (`Dataset`, `DatasetDict` or `ImageSplit`): Images with labels. Of a `DatasetDict`, `train` is
            trained on, and `validation` and `test` are evaluated if there is no `eval_dataset`.
        eval_dataset (`Dataset`, `dict` or `ImageSplit`, *optional*): One set, or several by name, which their metrics
            begin with. Without any, nothing is evaluated.
        callbacks (`list[TrainerCallback]`, *optional*): Further callbacks.
        selection_args (`SelectionArguments`, *optional*): How the selection is made, if the method needs one and no
            `selection` is given: at once, in `output_dir/selection`, unless it is there.
        data_args (`DataArguments`, *optional*): Names of columns, and what is held out of the training images.
        processing_class (*optional*): Image processor that belongs to a `PreTrainedModel`.

    Raises:
        `BiasEnsembleError`: In one line, if data, network, settings and method do not fit each other.
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
        self.handed_in: HandedIn | None = None
        wrong = next((name for name in _NOT_TAKEN if kwargs.pop(name, None) is not None), None)
        if wrong:
            raise BiasEnsembleError(f"{type(self).__name__}: expected no {wrong}, found one; {_NOT_TAKEN[wrong]}")
        of_a_run = transform is not None and isinstance(train_dataset, ImageSplit | None)
        if not of_a_run or not isinstance(model, nn.Module):
            given = (model, args, train_dataset, eval_dataset, selection_args, data_args, processing_class)
            with without_bar():
                found = HandedIn.of(type(self), *given, kwargs.get("selection") is None, callbacks)
            self.handed_in, model, args = found, found.network, found.prepared.args
            evaluated = dict(found.inputs.splits)
            train_dataset, eval_dataset = evaluated.pop("train"), evaluated
            transform = transform or found.inputs.transform
            kwargs |= {"selection": found.selection} if found.selection is not None else {}
        super().__init__(
            model,
            args,
            transform,  # type: ignore[arg-type]
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
            **kwargs,
        )
        if self.handed_in:
            self.publisher = self.handed_in.inputs.publish

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As of a `Trainer`. A run is resumed only with the data, settings and seed that it began with; `output_dir`
        must hold no other run, unless `overwrite_output_dir` says that it may go.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): `True` for the last checkpoint in `output_dir`, or
                the folder of one.

        Raises:
            `BiasEnsembleError`: If it is another run, or the loss is not finite.
        """
        checkpoint: Any = resume_from_checkpoint
        if self.handed_in:
            asked = self.args.resume_from_checkpoint if checkpoint is None else checkpoint
            self.args.resume_from_checkpoint = None if asked is None else str(asked)
            checkpoint = checkpoint_to_resume(self.args)
            self._check_folder(self.handed_in, checkpoint)
        with without_bar():
            found = super().train(resume_from_checkpoint=checkpoint and str(checkpoint), **kwargs)
        if self.handed_in and self.args.checkpoint_choice != "last":
            self.publish()
        return found

    def _check_folder(self, found: HandedIn, checkpoint: Path | None) -> None:
        """Refuses a folder with another run, and writes into it what this one is."""
        folder = Path(self.args.output_dir)
        if self.args.resume_from_checkpoint:
            before = check_same_run(checkpoint.parent if checkpoint else folder, found.prepared.settings)
            settle_steps(self.args, len(self.train_dataset), before)
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
            found.prepared.settings["schedule_steps"] = self.args.schedule_steps
            found.prepared.write_settings(folder)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As of the trainers below, and of plain datasets as well, one or several by name."""
        if self.handed_in and eval_dataset is not None:
            eval_dataset = self.handed_in.splits_of(eval_dataset, metric_key_prefix)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """As of the trainers below, and of a plain dataset as well."""
        if self.handed_in:
            test_dataset = self.handed_in.splits_of(test_dataset, metric_key_prefix)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)


class ErmTrainer(DebiasingTrainer, erm.ErmTrainer):
    """[`methods.erm.ErmTrainer`], the ordinary classifier, of plain datasets."""


class LffTrainer(DebiasingTrainer, lff.LffTrainer):
    """[`methods.lff.LffTrainer`] of plain datasets: LfF + BiasEnsemble, or with `method="lff"` alone."""


class DisentTrainer(DebiasingTrainer, disent.DisentTrainer):
    """[`methods.disent.DisentTrainer`] of plain datasets: DisEnt + BiasEnsemble, or with `method="disent"` alone."""


class JttTrainer(DebiasingTrainer, jtt.JttTrainer):
    """[`methods.jtt.JttTrainer`] of plain datasets."""


class GroupDroTrainer(DebiasingTrainer, group_dro_be.GroupDroTrainer):
    """[`methods.group_dro_be.GroupDroTrainer`] of plain datasets."""


class LastLayerTrainer(DebiasingTrainer, last_layer_be.LastLayerTrainer):
    """[`methods.last_layer_be.LastLayerTrainer`] of plain datasets."""


class LogitAdjustedTrainer(DebiasingTrainer, logit_adjusted.LogitAdjustedTrainer):
    """[`methods.logit_adjusted.LogitAdjustedTrainer`] of plain datasets."""


class ProductOfExpertsTrainer(DebiasingTrainer, product_of_experts.ProductOfExpertsTrainer):
    """[`methods.product_of_experts.ProductOfExpertsTrainer`] of plain datasets."""
