"""Evaluation by group, publishing, and checkpoints that are complete or absent, even if the process is killed."""

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
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.internal.tensors import separate
from hf_biasensemble.judging.predictions import HeldOutPredictions
from hf_biasensemble.judging.pseudo_groups import PseudoGroups
from hf_biasensemble.models.export import save_classifier
from hf_biasensemble.reporting.card.draft import write_draft
from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice
from hf_biasensemble.trainers.weight_average import WeightAverage

METHOD_STATE_FILE = "sample_losses.safetensors"


class EvaluatingTrainer(Trainer):
    """Evaluates [`ImageSplit`]s by group and publishes the classifier of the chosen step."""

    transform: ImageTransform | FeatureTransform
    checkpoint_choice: CheckpointChoice
    weight_average: WeightAverage | None = None
    control: TrainerControl
    judged: dict[str, PseudoGroups] | None = None
    """Pseudo-groups of the trainer's splits by name, to estimate accuracy without bias labels."""
    _checkpoint_parent: str | None = None
    publisher: Callable[[PreTrainedModel, str], object] | None = None
    """Saves the published classifier into a folder. The default saves it with the trainer's `transform`, for images
    resized without keeping their aspect ratio."""

    def training_measures(self) -> dict[str, float]:
        """Metrics of the training samples by name, logged with each evaluation."""
        return {}

    def classifier(self) -> PreTrainedModel:
        """The classifier among the networks that are trained."""
        return self.accelerator.unwrap_model(self.model)

    def published_model(self) -> PreTrainedModel:
        """The classifier that is evaluated and published: the trained one or, with `weight_average`, its average."""
        return self.weight_average.averaged.module if self.weight_average else self.classifier()

    def predict_logits(
        self, split: ImageSplit, model: nn.Module | None = None, full_precision: bool = False
    ) -> torch.Tensor:
        """Logits (N, ...) of the published model, or of another one, in the order of the split.

        Processes share the work, and all of them get all logits.

        Args:
            split (`ImageSplit`): The images.
            model (`nn.Module`, *optional*): By default the published model.
            full_precision (`bool`, *optional*, defaults to `False`): Computes in float32, not in the precision of
                training.
        """
        model = model or self.published_model()
        share_buffers(model)
        # Each process gets whole batches: a matrix product of fewer rows may differ in the last bit.
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
        """Splits the images into blocks of whole batches of all processes; see [`in_blocks`]."""
        return in_blocks(split, logits_each, self.args.eval_batch_size * self.args.world_size)

    def evaluate(
        self,
        eval_dataset: ImageSplit | dict[str, ImageSplit] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Accuracy by group of each split: the metrics of [`bias_accuracy`] as `{split}_{metric}`.

        With `weight_average`, these are the metrics of the average; `raw_{split}_{metric}` are those of the current
        weights. [`~EvaluatingTrainer.training_measures`] are added.

        Args:
            eval_dataset (`ImageSplit` or `dict[str, ImageSplit]`, *optional*): A split, or several by name. By default
                the trainer's own; only these evaluations are candidates for `checkpoint_choice`.
            ignore_keys (`list[str]`, *optional*): Unused; see `Trainer.evaluate`.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Name of a single split.

        Raises:
            `BiasEnsembleError`: If a loss or a logit is not finite.
        """
        self.check_finite()  # names the step at which training diverged
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
        """Predictions of the published model, or of another one, with the pseudo-groups of this name."""
        parts = self.in_blocks(split, len(split.class_names))
        blocks = (self.predict_logits(part, model).numpy() for part in parts)
        return HeldOutPredictions.from_logits(blocks, split, (self.judged or {}).get(name))

    def predict(
        self, test_dataset: ImageSplit, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predictions of the published model, in the order of the split.

        Args:
            test_dataset (`ImageSplit`): The images.
            ignore_keys (`list[str]`, *optional*): Unused; see `Trainer.predict`.
            metric_key_prefix (`str`, *optional*, defaults to `"test"`): Prefix of the metrics.

        Returns:
            `PredictionOutput`: Logits (N, K) as `predictions`, classes (N,) as `label_ids`, and the `metrics` of
            [`bias_accuracy`].

        Raises:
            `BiasEnsembleError`: If `test_dataset` is not a single split, or the model takes another kind of input.
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
        """Loads the weights that `checkpoint_choice` selects into the published model, after training.

        Returns:
            `dict`: Their evaluation, `checkpoint_choice` and `published_step`. If weights of an evaluation were
            selected, also the evaluation of the last step, as `last_step_{split}_{metric}`.
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
        """Logged evaluations by step, of the trainer's splits or, if it has none, of the training images."""
        wanted = {f"{name}_accuracy" for name in self.eval_dataset or ()}
        return {
            entry["step"]: {key: value for key, value in entry.items() if key not in ("step", "epoch")}
            for entry in self.state.log_history
            if wanted <= entry.keys() and (wanted or any(key.endswith(DIFFICULTIES) for key in entry))
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves config, weights and preprocessing of the published classifier, for `from_pretrained`.

        Args:
            output_dir (`str`, *optional*): Target folder; by default the trainer's `output_dir`.

        Raises:
            `BiasEnsembleError`: If the classifier was trained on features of an unknown backbone, outside a run.
        """
        if _internal_call:  # a checkpoint holds all networks that are trained
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
        """Writes a short model card, `README.md`, into `output_dir`. A run writes a full one instead.

        Args:
            metadata: Fields of `huggingface_hub.ModelCardData`, such as `model_name`, `tags` and `license`.
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
            blocking (`bool`, *optional*): Unused; always waits for the upload.
            token (`str`, *optional*): By default `HF_TOKEN` or the token of `hf auth login`.
            revision (`str`, *optional*): Must be `main`.
            private (`bool`, *optional*): Whether the repository is private; by default `args.hub_private_repo`.
            metadata: See [`~EvaluatingTrainer.create_model_card`].

        Returns:
            `str`: URL of the commit; empty in all processes but the first.

        Raises:
            `BiasEnsembleError`: If `revision` is another branch, or the upload fails.
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
        """Tensors that a checkpoint must hold besides model, optimizer and random state."""
        return {}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a [`~EvaluatingTrainer.method_state`]."""

    def check_finite(self) -> None:
        """Raises `BiasEnsembleError` if a loss since the last log is not finite."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_finite()
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        aside = final.parent / UNFINISHED
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._checkpoint_parent = str(aside)
        try:
            with one_line_if_not_written(f"checkpoint {final}"):
                super()._save_checkpoint(model, trial)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            self._checkpoint_parent = None
        self.accelerator.wait_for_everyone()  # each process writes its random state
        if self.args.should_save:
            publish(aside / final.name, final)
            remove_older(final, self.args.save_total_limit)
            shutil.rmtree(aside)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoint_parent or super()._get_output_dir(trial)

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
                        f"({reason_of(error, 100)}); train from the start with --overwrite_output_dir"
                    ) from error

    def _parts_with_state(self) -> dict[str, CheckpointChoice | WeightAverage]:
        """By name of their file in a checkpoint."""
        parts = {"published.safetensors": self.checkpoint_choice, "weight_average.safetensors": self.weight_average}
        return {name: part for name, part in parts.items() if part}


def named_splits(splits: Any, name: str) -> dict[str, ImageSplit]:
    """Splits by name; a single split gets this name. Raises `BiasEnsembleError` for anything else."""
    found = {name: splits} if isinstance(splits, ImageSplit) else splits
    if not isinstance(found, dict) or not all(isinstance(split, ImageSplit) for split in found.values()):
        raise BiasEnsembleError(
            f"expected an ImageSplit or a dict of them by name, found {type(splits).__name__}; create them with "
            "hf_biasensemble.load_image_splits"
        )
    return found
