"""Evaluation of a trained classifier by group, and which of its states is published."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerControl
from transformers.trainer_utils import PredictionOutput

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.evaluation.accuracy import METRICS, bias_accuracy
from hf_biasensemble.evaluation.classifier import in_blocks, predict_logits
from hf_biasensemble.evaluation.difficulty import DIFFICULTIES
from hf_biasensemble.internal.collectives import share_buffers
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.judging.estimates import ESTIMATES
from hf_biasensemble.judging.predictions import HeldOutPredictions
from hf_biasensemble.judging.pseudo_groups import PseudoGroups
from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice
from hf_biasensemble.trainers.checkpointing import CheckpointingTrainer, SavedPart
from hf_biasensemble.trainers.weight_average import WeightAverage


class EvaluatingTrainer(CheckpointingTrainer):
    """Evaluates [`ImageSplit`]s by group, and publishes the classifier of the step that is chosen."""

    transform: ImageTransform | FeatureTransform
    checkpoint_choice: CheckpointChoice
    weight_average: WeightAverage | None = None
    control: TrainerControl
    judged: dict[str, PseudoGroups] | None = None
    """By name, pseudo-groups of the trainer's own splits, on which accuracy is estimated without bias labels."""

    def training_measures(self) -> dict[str, float]:
        """What an evaluation says of the training samples, by key; part of its log like the accuracy of the splits."""
        return {}

    def classifier(self) -> PreTrainedModel:
        """The classifier in what is trained."""
        return self.accelerator.unwrap_model(self.model)

    def published_model(self) -> PreTrainedModel:
        """The classifier that is evaluated and published: the one that is trained, or its average over the steps."""
        return self.weight_average.averaged.module if self.weight_average else self.classifier()

    def further_state(self) -> list[SavedPart]:
        return [part for part in (self.checkpoint_choice, self.weight_average) if part]

    def predict_logits(
        self, split: ImageSplit, model: nn.Module | None = None, full_precision: bool = False
    ) -> torch.Tensor:
        """Logits (N, ...) of the published model, or of another, in the order of the split.

        Each process does a part, and all get the whole. In the precision of training, or in float32.
        """
        model = model or self.published_model()
        share_buffers(model)
        # Whole batches of one process: a matrix product of fewer rows may have another last bit.
        batches = torch.arange(len(split)).split(self.args.eval_batch_size)
        of_processes = torch.arange(len(batches)).tensor_split(self.args.world_size)
        parts = [torch.cat([batches[0][:0], *(batches[number] for number in numbers)]) for numbers in of_processes]
        with nullcontext() if full_precision else self.accelerator.autocast():
            own = parts[self.args.process_index]
            own = split.select(own if len(own) else torch.tensor([0]))  # not every network takes an empty batch
            logits = predict_logits(model, own, self.transform, self.args.eval_batch_size)
        if self.args.world_size == 1:
            return logits.cpu()
        gathered = self.accelerator.gather(self.accelerator.pad_across_processes(logits, dim=0)).cpu()
        longest = max(len(part) for part in parts)
        return torch.cat([gathered[n * longest :][: len(part)] for n, part in enumerate(parts)])

    def in_blocks(self, split: ImageSplit, logits_each: int) -> Iterator[ImageSplit]:
        """[`in_blocks`] of whole batches of all processes."""
        return in_blocks(split, logits_each, self.args.eval_batch_size * self.args.world_size)

    def evaluate(
        self,
        eval_dataset: ImageSplit | dict[str, ImageSplit] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Accuracy by group of each split, under the keys `{split}_{metric}` of [`bias_accuracy`].

        Where the weights are averaged, `raw_{split}_{metric}` says the same of the weights of this very step. What
        [`~EvaluatingTrainer.training_measures`] adds stands beside them.

        Args:
            eval_dataset (`ImageSplit` or `dict[str, ImageSplit]`, *optional*): A split, or several by name; by default
                those of the trainer, among whose steps `checkpoint_choice` then chooses.
            ignore_keys (`list[str]`, *optional*): As of a `Trainer`; not needed here.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Stands for the name of a single split.
        """
        self.check_finite()  # which names the step where training diverged
        own = eval_dataset is None
        splits = named_splits(self.eval_dataset if own else eval_dataset, metric_key_prefix)
        metrics = self.training_measures() if own else {}
        models: dict[str, nn.Module] = {"": self.published_model()}
        if self.weight_average:
            models["raw_"] = self.classifier()
        for prefix, model in models.items():
            for name, split in splits.items():
                found = self.held_out_predictions(name, split, model)
                accuracy = bias_accuracy(found.predictions, **split.measured_by())
                if own:
                    accuracy |= found.estimates()
                metrics |= {f"{prefix}{name}_{key}": value for key, value in accuracy.items()}
        self.log(dict(metrics))
        if own:
            self.checkpoint_choice.consider(self.state.global_step, metrics, self.published_model())
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out_predictions(self, name: str, split: ImageSplit, model: nn.Module | None = None) -> HeldOutPredictions:
        """What the published model, or another, says of a split, with the pseudo-groups of the split of that name."""
        classes = len(split.class_names)
        blocks = (self.predict_logits(part, model).numpy() for part in self.in_blocks(split, classes))
        labels, groups = split.labels[split.rows].numpy(), (self.judged or {}).get(name)
        return HeldOutPredictions.from_logits(blocks, split.rows.numpy(), labels, classes, groups)

    def predict(
        self, test_dataset: ImageSplit, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """What the published model says of a split, in the split's order.

        Args:
            test_dataset (`ImageSplit`): The images; not augmented.
            ignore_keys (`list[str]`, *optional*): As of a `Trainer`; not needed here.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`): First part of the names of the metrics.

        Returns:
            `PredictionOutput`: `predictions` are the logits (N, K), `label_ids` the classes (N,), `metrics` those of
            [`bias_accuracy`].
        """
        split = named_splits(test_dataset, metric_key_prefix)[metric_key_prefix]
        logits = self.predict_logits(split).numpy()
        columns = split.measured_by()
        accuracy = bias_accuracy(logits.argmax(axis=-1), **columns)
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in accuracy.items()}
        return PredictionOutput(logits, columns["labels"], metrics)

    def publish(self) -> dict[str, Any]:
        """Gives the published model the weights that `checkpoint_choice` names, once training is over.

        Returns:
            `dict`: The evaluation of these weights, `checkpoint_choice` and `published_step`. If that is not the last
            step, the last step's evaluation as well, under `last_step_{split}_{metric}`.
        """
        last = self._evaluation_at(self.state.global_step) or self.evaluate()
        choice = self.checkpoint_choice
        choice.settle()
        named = {"checkpoint_choice": choice.name, "published_step": self.state.global_step}
        if not choice.weights:
            return {**last, **named}
        self.published_model().load_state_dict(choice.weights)
        beside = {f"last_step_{key}": value for key, value in last.items()}
        return {**self._evaluation_at(choice.step), **beside, **named, "published_step": choice.step}

    def _evaluation_at(self, step: int) -> dict[str, float]:
        """The logged evaluation of a step; empty if there was none."""
        for entry in reversed(self.state.log_history):
            metrics = {
                key: value for key, value in entry.items() if key.endswith((*METRICS, *ESTIMATES, *DIFFICULTIES))
            }
            of_own_splits = any(key.startswith(("train_", *(self.eval_dataset or ()))) for key in metrics)
            if of_own_splits and entry["step"] == step:
                return metrics
        return {}


def named_splits(splits: Any, name: str) -> dict[str, ImageSplit]:
    """The splits by name, of which a single one has this name; refuses anything else."""
    found = {name: splits} if isinstance(splits, ImageSplit) else splits
    if not isinstance(found, dict) or not all(isinstance(split, ImageSplit) for split in found.values()):
        raise BiasEnsembleError(
            f"expected an ImageSplit or a dict of them by name, found {type(splits).__name__}; load_image_splits in "
            "hf_biasensemble.data.prepare makes them of a dataset"
        )
    return found
