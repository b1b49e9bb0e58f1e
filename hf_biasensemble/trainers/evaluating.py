"""Evaluation of a trained classifier by group, which of its states is published, and checkpoints.

A checkpoint is complete or not there, whatever kills the process, and holds all that a method must remember.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerControl
from transformers.trainer_utils import PredictionOutput

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.evaluation.accuracy import METRICS, bias_accuracy
from hf_biasensemble.evaluation.classifier import check_input, in_blocks, predict_logits
from hf_biasensemble.evaluation.difficulty import DIFFICULTIES
from hf_biasensemble.folders.checkpoints import UNFINISHED, one_line_if_not_written, publish, remove_older
from hf_biasensemble.folders.hub import push_model
from hf_biasensemble.internal.collectives import share_buffers
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.tensors import separate
from hf_biasensemble.judging.predictions import HeldOutPredictions
from hf_biasensemble.judging.pseudo_groups import PseudoGroups
from hf_biasensemble.models.export import save_classifier
from hf_biasensemble.reporting.card.draft import write_draft
from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice
from hf_biasensemble.trainers.weight_average import WeightAverage

METHOD_STATE_FILE = "sample_losses.safetensors"


class EvaluatingTrainer(Trainer):
    """Evaluates [`ImageSplit`]s by group, and publishes the classifier of the step that is chosen."""

    transform: ImageTransform | FeatureTransform
    checkpoint_choice: CheckpointChoice
    weight_average: WeightAverage | None = None
    control: TrainerControl
    judged: dict[str, PseudoGroups] | None = None
    """By name, pseudo-groups of the trainer's own splits, on which accuracy is estimated without bias labels."""
    _checkpoints_go_to: str | None = None
    publisher: Callable[[PreTrainedModel, str], object] | None = None
    """Saves the published classifier into a folder. By default it is saved with the trainer's `transform`, for images
    that are squashed to its size."""

    def training_measures(self) -> dict[str, float]:
        """What an evaluation says about the training samples, by key; logged like the accuracy of the splits."""
        return {}

    def classifier(self) -> PreTrainedModel:
        """The classifier in what is trained."""
        return self.accelerator.unwrap_model(self.model)

    def published_model(self) -> PreTrainedModel:
        """The classifier that is evaluated and published: the one that is trained, or its average over the steps."""
        return self.weight_average.averaged.module if self.weight_average else self.classifier()

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

        Where the weights are averaged, `raw_{split}_{metric}` is measured with the weights of this very step.
        [`~EvaluatingTrainer.training_measures`] are added.

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
        """Predictions of the published model, or another, for a split, with the pseudo-groups of that name."""
        parts = self.in_blocks(split, len(split.class_names))
        blocks = (self.predict_logits(part, model).numpy() for part in parts)
        return HeldOutPredictions.from_logits(blocks, split, (self.judged or {}).get(name))

    def predict(
        self, test_dataset: ImageSplit, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predictions of the published model for a split, in the split's order.

        Args:
            test_dataset (`ImageSplit`): The images; not augmented.
            ignore_keys (`list[str]`, *optional*): As of a `Trainer`; not needed here.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`): First part of the names of the metrics.

        Returns:
            `PredictionOutput`: `predictions` are the logits (N, K), `label_ids` the classes (N,), `metrics` those of
            [`bias_accuracy`].
        """
        splits = named_splits(test_dataset, metric_key_prefix)
        if splits.keys() != {metric_key_prefix}:
            raise BiasEnsembleError(
                f"predict: expected one dataset, found {', '.join(splits) or 'none'}; evaluate takes several by name"
            )
        split = splits[metric_key_prefix]
        check_input(split, self.transform)
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
        last = self._evaluations().get(self.state.global_step) or self.evaluate()
        choice = self.checkpoint_choice
        choice.settle()
        named = {"checkpoint_choice": choice.name, "published_step": self.state.global_step}
        if not choice.weights:
            return {**last, **named}
        self.published_model().load_state_dict(choice.weights)
        beside = {f"last_step_{key}": value for key, value in last.items()}
        return {**self._evaluations().get(choice.step, {}), **beside, **named, "published_step": choice.step}

    def _evaluations(self) -> dict[int, dict[str, float]]:
        """The logged evaluations by step: of the trainer's own splits or, without any, of the training images."""
        wanted = {f"{name}_accuracy" for name in self.eval_dataset or ()}
        return {
            entry["step"]: {key: value for key, value in entry.items() if key not in ("step", "epoch")}
            for entry in self.state.log_history
            if wanted <= entry.keys() and (wanted or any(key.endswith(DIFFICULTIES) for key in entry))
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the published classifier, which `from_pretrained` opens: config, weights and preprocessing.

        Args:
            output_dir (`str`, *optional*): Where to; by default the trainer's `output_dir`.

        Raises:
            `BiasEnsembleError`: If it was trained on features of a frozen backbone outside of a run, so that nothing
                says which backbone belongs to it.
        """
        if _internal_call:  # a checkpoint holds all that is trained
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder, classifier = output_dir or self.args.output_dir, self.published_model()
            if self.publisher:
                self.publisher(classifier, folder)
            elif isinstance(self.transform, FeatureTransform):
                raise BiasEnsembleError(
                    "save_model: expected a classifier of images, found one of a frozen backbone's features; set "
                    "trainer.publisher to a function that saves the two together"
                )
            else:
                save_classifier(classifier, self.transform, folder)

    def create_model_card(self, **metadata: Any) -> None:
        """Writes a short `README.md` beside the classifier that [`~EvaluatingTrainer.save_model`] wrote into
        `output_dir`. A run writes a full one instead.

        Args:
            metadata: `model_name`, `tags`, `license` and other fields of `huggingface_hub.ModelCardData`.
        """
        if self.is_world_process_zero():
            step, evaluations = self.checkpoint_choice.step or self.state.global_step, self._evaluations()
            measured = {key: value for key, value in evaluations.get(step, {}).items() if key.endswith(METRICS)}
            write_draft(self.args.output_dir, self.published_model(), type(self).__name__, measured, **metadata)

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **metadata: Any,
    ) -> str:
        """Saves the published classifier and its card into `output_dir` and uploads both in one commit.

        Args:
            commit_message (`str`, *optional*): Title of the commit.
            blocking (`bool`, *optional*): As of a `Trainer`; it always waits for the upload.
            token (`str`, *optional*): By default `HF_TOKEN` or the one of `hf auth login`.
            revision (`str`, *optional*): As of a `Trainer`; only the main branch is supported.
            private (`bool`, *optional*): Whether to make it private; by default as `hub_private_repo` says.
            metadata: As of [`~EvaluatingTrainer.create_model_card`].

        Returns:
            `str`: Address of the commit; empty in all processes but the first.
        """
        if revision not in (None, "main"):
            raise BiasEnsembleError(f"push_to_hub: expected the revision main, found {revision}; leave it out")
        if not self.is_world_process_zero():
            return ""
        folder = Path(self.args.output_dir)
        self.save_model()
        self.create_model_card(**metadata)
        private = bool(self.args.hub_private_repo if private is None else private)
        repo_id = self.args.hub_model_id or folder.resolve().name
        return push_model(folder, repo_id, private=private, commit_message=commit_message, token=token)

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def method_state(self) -> dict[str, torch.Tensor]:
        """Tensors that a checkpoint must hold beside model, optimiser and random state."""
        return {}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~EvaluatingTrainer.method_state`] gave."""

    def check_finite(self) -> None:
        """Raises `BiasEnsembleError` if a loss since the last log is not finite; nothing is saved then."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_finite()
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        aside = final.parent / UNFINISHED
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._checkpoints_go_to = str(aside)
        try:
            with one_line_if_not_written(f"checkpoint {final}"):
                super()._save_checkpoint(model, trial)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            self._checkpoints_go_to = None
        self.accelerator.wait_for_everyone()  # each process writes its random state
        if self.args.should_save:
            publish(aside / final.name, final)
            remove_older(final, self.args.save_total_limit)
            shutil.rmtree(aside)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoints_go_to or super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, separate(self.model.state_dict() if state_dict is None else state_dict))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        states = {METHOD_STATE_FILE: self.method_state()}
        states |= {name: part.state_dict() for name, part in self._parts_with_state().items()}
        for name, state in states.items():
            if state and self.args.should_save:
                save_file(separate(state), Path(output_dir) / name)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if self.method_state():
            self.load_method_state(load_file(Path(checkpoint) / METHOD_STATE_FILE))
        for name, part in self._parts_with_state().items():
            if (file := Path(checkpoint) / name).exists():
                try:
                    part.load_state_dict(load_file(file))
                except (KeyError, RuntimeError) as error:
                    raise BiasEnsembleError(
                        f"{file}: expected what this version of the library saves, found something else "
                        f"({' '.join(str(error).split())[:100]}); train from the start with --overwrite_output_dir"
                    ) from error

    def _parts_with_state(self) -> dict[str, CheckpointChoice | WeightAverage]:
        """By the names of their files in a checkpoint."""
        parts = {"published.safetensors": self.checkpoint_choice, "weight_average.safetensors": self.weight_average}
        return {name: part for name, part in parts.items() if part}


def named_splits(splits: Any, name: str) -> dict[str, ImageSplit]:
    """The splits by name, of which a single one has this name; refuses anything else."""
    found = {name: splits} if isinstance(splits, ImageSplit) else splits
    if not isinstance(found, dict) or not all(isinstance(split, ImageSplit) for split in found.values()):
        raise BiasEnsembleError(
            f"expected an ImageSplit or a dict of them by name, found {type(splits).__name__}; load_image_splits in "
            "hf_biasensemble.data.prepare makes them of a dataset"
        )
    return found
