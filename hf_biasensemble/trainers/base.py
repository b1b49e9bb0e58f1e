"""What all trainers of the library share: Adam, device-side transforms, term logging, evaluation by group."""

import logging
import math
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerControl
from transformers.trainer_utils import TrainOutput

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.checkpoints import UNFINISHED, one_line_if_not_written, publish, remove_older
from hf_biasensemble.collectives import mean_of_processes, share_buffers
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.transforms import ImageTransform, draw_for_these
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.evaluation import predict_logits
from hf_biasensemble.metrics.accuracy import METRICS, bias_accuracy
from hf_biasensemble.metrics.difficulty import DIFFICULTIES
from hf_biasensemble.models.fine_tuning import parameter_groups
from hf_biasensemble.processes import print_once
from hf_biasensemble.trainers.batch_part import BatchPart, WholeBatch
from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice
from hf_biasensemble.trainers.last_batch import settle_last_batch
from hf_biasensemble.trainers.stop_signal import StopSignal
from hf_biasensemble.trainers.weight_average import WeightAverage

logger = logging.getLogger(__name__)

METHOD_STATE_FILE = "sample_losses.safetensors"


class DebiasingTrainer(Trainer):
    """Trainer over [`ImageSplit`]s whose loss is a sum of named terms.

    A method is a subclass with [`~DebiasingTrainer.training_terms`]; what it must remember between steps goes through
    [`~DebiasingTrainer.method_state`] into the checkpoints.

    Differences from `transformers.Trainer`: Adam instead of AdamW, no gradient clipping by default, whole uint8
    batches that are transformed on the device, an evaluation that reports accuracy for aligned and conflicting samples
    of each split, and an error instead of silence when the loss is not finite.

    Args:
        model (`nn.Module`): What is trained; its output holds `logits` of the classifier that is evaluated.
        args (`DebiasingArguments`): Settings.
        transform (`ImageTransform`): From uint8 batches to network input.
        train_dataset (`ImageSplit`, *optional*): Needed for training.
        eval_dataset (`dict[str, ImageSplit]`, *optional*): Splits to evaluate, by the prefix of their metrics.
        callbacks (`list[TrainerCallback]`, *optional*): Further callbacks.
    """

    loss_is_scaled_for_ga = False  # each term is a mean over the batch
    splits_batches = True  # several processes take parts of each batch; otherwise each has the whole
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
    control: TrainerControl
    _tr_loss: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        args: DebiasingArguments,
        transform: ImageTransform,
        train_dataset: Dataset | None = None,
        eval_dataset: dict[str, ImageSplit] | None = None,
        callbacks: list | None = None,
    ):
        if train_dataset is not None:
            filled_up = self.splits_batches and args.world_size > 1
            settle_last_batch(model, args, len(train_dataset), filled_up)  # type: ignore[arg-type]
        # The Trainer would push the pair while it trains, and write the token into `training_args.bin`.
        settled: dict[str, Any] = {"push_to_hub": False, "hub_token": None}
        # No forward pass leaves parameters out, and looking for them costs time.
        settled["ddp_find_unused_parameters"] = bool(args.ddp_find_unused_parameters)
        super().__init__(
            model=model,
            args=replace(args, **settled),
            data_collator=_ready_batch,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
        )
        self.transform = transform
        self.checkpoint_choice = CheckpointChoice(args.checkpoint_choice)
        self.weight_average: WeightAverage | None = None
        if args.weight_average and train_dataset is not None:
            self.weight_average = WeightAverage(self.classifier(), args.weight_average)
            self.add_callback(self.weight_average)
        self.part: BatchPart | WholeBatch = WholeBatch()
        self._terms: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.stop_signal = StopSignal()
        self.add_callback(self.stop_signal)
        self._checkpoints_go_to: str | None = None

    # The method ------------------------------------------------------------------------------------------------------

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The terms whose sum is minimised, by name; means over samples are `self.part.mean`.

        Args:
            model (`nn.Module`): The model as wrapped for training; call it once.
            batch (`dict[str, torch.Tensor]`): `pixel_values` (B, C, H, W) float, `labels` (B,), `index` (B,).
        """
        raise NotImplementedError

    def method_state(self) -> dict[str, torch.Tensor]:
        """Tensors that a checkpoint must hold beside model, optimiser and random state."""
        return {}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~DebiasingTrainer.method_state`] gave."""

    def training_measures(self) -> dict[str, float]:
        """What an evaluation says of the training samples, by key; part of its log like the accuracy of the splits."""
        return {}

    def classifier(self) -> PreTrainedModel:
        """The classifier in what is trained."""
        return self.accelerator.unwrap_model(self.model)

    def published_model(self) -> PreTrainedModel:
        """The classifier that is evaluated and published: the one that is trained, or its average over the steps."""
        return self.weight_average.averaged.module if self.weight_average else self.classifier()

    # Training --------------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(
                parameter_groups(self.model if model is None else model, self.args.backbone_learning_rate),
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                weight_decay=self.args.weight_decay,
                fused=True,
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        start, every = self.args.in_steps("step_decay_start"), self.args.in_steps("step_decay_steps")
        if self.lr_scheduler is None and every:

            def factor(step: int) -> float:
                return self.args.step_decay_factor ** (max(0, step - start) // every)

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.create_optimizer(), factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains; ends the process with 128 + the number of a signal, once a checkpoint is saved, if one came."""
        try:
            output = super().train(*args, **kwargs)
        finally:
            self.stop_signal.restore()
        if self.stop_signal.received:
            saved = "no checkpoint saved (--save_strategy no)"
            if self.args.save_strategy != "no":
                saved = f"checkpoint saved in {self.args.output_dir}; go on with --resume_from_checkpoint true"
            name = signal.Signals(self.stop_signal.received).name
            print_once(f"stopped by {name} after step {self.state.global_step}: {saved}")
            raise SystemExit(128 + self.stop_signal.received)
        return output

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """The batches of one optimisation step; each says which part of the step it is, unless it is the whole."""
        if self.state.global_step >= self.state.max_steps:  # resumed where the training ended: no further step
            return [], None
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        processes, rows = self.args.world_size if self.splits_batches else 1, self.args.train_batch_size
        if processes == 1 and self.args.gradient_accumulation_steps == 1:
            return batches, num_items
        samples = [processes * rows if processes > 1 else len(batch["labels"]) for batch in batches]
        ends_epoch = processes > 1 and self.accelerator.gradient_state.end_of_dataloader
        if ends_epoch and not self.args.dataloader_drop_last:  # filled up by repeating samples
            samples[-1] = len(self.train_dataset) % samples[-1] or samples[-1]
        for batch, num_samples in zip(batches, samples, strict=True):
            first = self.args.process_index * rows if processes > 1 else 0
            batch["part"] = BatchPart(first, num_samples, sum(samples), processes * len(batches))
        return batches, num_items

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        batch = super()._prepare_inputs(inputs)
        draw = batch["part"].draw if "part" in batch else draw_for_these
        pixels = self.transform.augment(batch["pixel_values"], draw)
        return {**batch, "pixel_values": self.transform.normalise(pixels)}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        self.part = inputs.pop("part", WholeBatch())  # type: ignore[assignment]
        terms = self.training_terms(model, inputs)
        loss = torch.stack(list(terms.values())).sum()
        self._terms["loss"].append(loss.detach())
        for name, value in terms.items():
            self._terms[f"loss_{name}"].append(value.detach())
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term since the last log to the Trainer's own record."""
        if "loss" in logs:
            logs |= self._drain_terms()
        super().log(logs, start_time)

    def _drain_terms(self) -> dict[str, float]:
        """Means of the recorded terms; a loss that is not finite ends the run before anything more is saved."""
        recorded = {name: self.over_processes(torch.stack(values)) for name, values in self._terms.items()}
        self._terms.clear()
        if "loss" in recorded:
            bad = (~torch.isfinite(recorded["loss"])).nonzero()
            if len(bad):
                batches_since = len(recorded["loss"]) - 1 - int(bad[0])
                step = self.state.global_step - batches_since // self.args.gradient_accumulation_steps
                raise BiasEnsembleError(
                    f"the loss is {float(recorded['loss'][bad[0]])} at step {step} (learning rate "
                    f"{self._get_learning_rate():g}): expected a finite number; lower --learning_rate. Checkpoints "
                    "before that step are unharmed"
                )
        return {name: float(values.mean()) for name, values in recorded.items()}

    def over_processes(self, values: torch.Tensor) -> torch.Tensor:
        """Losses of the whole batch, from those that each process computed."""
        return mean_of_processes(values)

    def _finalize_training(self, *args: Any) -> TrainOutput:
        self._tr_loss = self.over_processes(self._tr_loss)  # since the last log; until then the Trainer has done so
        return super()._finalize_training(*args)

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float | None:
        # The Trainer would compute the norm of all gradients at every step, just to log it.
        return grad_norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    # Evaluation ------------------------------------------------------------------------------------------------------

    def predict_logits(
        self, split: ImageSplit, model: nn.Module | None = None, full_precision: bool = False
    ) -> torch.Tensor:
        """Logits (N, ...) of the published model, or of another, in the order of the split.

        Each process does a part, and all get the whole. In the precision of training, or in float32.
        """
        model = model or self.published_model()
        share_buffers(model)
        parts = torch.arange(len(split)).tensor_split(self.args.world_size)
        with nullcontext() if full_precision else self.accelerator.autocast():
            own = parts[self.args.process_index]
            own = split.select(own if len(own) else torch.tensor([0]))  # not every network takes an empty batch
            logits = predict_logits(model, own, self.transform, self.args.eval_batch_size)
        if self.args.world_size == 1:
            return logits.cpu()
        gathered = self.accelerator.gather(self.accelerator.pad_across_processes(logits, dim=0)).cpu()
        longest = max(len(part) for part in parts)
        return torch.cat([gathered[n * longest :][: len(part)] for n, part in enumerate(parts)])

    def evaluate(
        self,
        eval_dataset: dict[str, ImageSplit] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Accuracy by group of each split, under the keys `{split}_{metric}` of [`bias_accuracy`].

        Where the weights are averaged, `raw_{split}_{metric}` says the same of the weights of this very step. What
        [`~DebiasingTrainer.training_measures`] adds stands beside them.
        """
        metrics = self.training_measures()
        models = {"": self.published_model()}
        if self.weight_average:
            models["raw_"] = self.classifier()
        for prefix, model in models.items():
            for name, split in (eval_dataset or self.eval_dataset or {}).items():
                predictions = self.predict_logits(split, model).argmax(dim=-1).numpy()
                accuracy = bias_accuracy(predictions, **split.measured_by())
                metrics |= {f"{prefix}{name}_{key}": value for key, value in accuracy.items()}
        self.log(dict(metrics))
        self.checkpoint_choice.consider(self.state.global_step, metrics, self.published_model())
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def publish(self) -> dict[str, Any]:
        """Gives the published model the weights that `checkpoint_choice` names, once training is over.

        Returns:
            `dict`: The evaluation of these weights, `checkpoint_choice` and `published_step`. If that is not the last
            step, the last step's evaluation as well, under `last_step_{split}_{metric}`.
        """
        last = self._evaluation_at(self.state.global_step) or self.evaluate()
        choice = self.checkpoint_choice
        named = {"checkpoint_choice": self.args.checkpoint_choice, "published_step": self.state.global_step}
        if not choice.weights:
            return {**last, **named}
        self.published_model().load_state_dict(choice.weights)
        beside = {f"last_step_{key}": value for key, value in last.items()}
        return {**self._evaluation_at(choice.step), **beside, **named, "published_step": choice.step}

    def _evaluation_at(self, step: int) -> dict[str, float]:
        """The logged evaluation of a step; empty if there was none."""
        for entry in reversed(self.state.log_history):
            metrics = {key: value for key, value in entry.items() if key.endswith((*METRICS, *DIFFICULTIES))}
            if metrics and entry["step"] == step:
                return metrics
        return {}

    # Checkpoints -----------------------------------------------------------------------------------------------------

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

    def check_finite(self) -> None:
        """Raises `BiasEnsembleError` if a loss since the last log is not finite."""
        losses = self._terms.get("loss")
        if losses and not math.isfinite(float(self.over_processes(torch.stack(losses).sum()))):
            self._drain_terms()

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of use: it would push the pair. Save the published model, then `hf_biasensemble.hub.push_model`."""
        raise BiasEnsembleError("expected hf_biasensemble.hub.push_model(output_dir, repo_id) once the run has ended")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.method_state()
        if not self.args.should_save:
            return
        if state:
            save_file(state, Path(output_dir) / METHOD_STATE_FILE)
        for part in self._further_state():
            part.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if self.method_state():
            self.load_method_state(load_file(Path(checkpoint) / METHOD_STATE_FILE))
        for part in self._further_state():
            part.load(checkpoint)

    def _further_state(self) -> list[CheckpointChoice | WeightAverage]:
        return [part for part in (self.checkpoint_choice, self.weight_average) if part]


def _ready_batch(batch: Any) -> Any:
    """The split has already made the batch."""
    return batch
