"""The base of all trainers: Adam, transforms on the device, named loss terms, means over whole steps."""

import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.trainer_utils import TrainOutput

from hf_biasensemble.arguments import DebiasingArguments, steps_of_epochs
from hf_biasensemble.data.batches.prefetching import Prefetch
from hf_biasensemble.data.batches.transforms import ImageTransform, draw_for_these
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import Features, FeatureTransform
from hf_biasensemble.internal.collectives import is_alone, mean_of_processes, of_one_process, total
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import is_first, refuse_data_parallel
from hf_biasensemble.losses.objectives import group_sums
from hf_biasensemble.models.fine_tuning import parameter_groups
from hf_biasensemble.trainers.batch_part import BatchPart, WholeBatch
from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice
from hf_biasensemble.trainers.evaluating import EvaluatingTrainer
from hf_biasensemble.trainers.weight_average import WeightAverage

logger = logging.getLogger(__name__)


class DebiasingTrainer(EvaluatingTrainer):
    """Trainer over [`ImageSplit`]s whose loss is a sum of named terms.

    A method implements [`~DebiasingTrainer.training_terms`]. If it keeps state between steps, it also implements
    [`~DebiasingTrainer.method_state`] and [`~DebiasingTrainer.load_method_state`].

    Differences from `transformers.Trainer`: Adam instead of AdamW, no gradient clipping by default, whole uint8
    batches that `transform` turns into inputs on the device, accuracy on bias-aligned and bias-conflicting samples of
    each split of `eval_dataset`, and an error if the loss is not finite.
    """

    loss_is_scaled_for_ga = False  # each term is a mean over the batch
    splits_batches = True  # whether several processes split each batch; otherwise each has all of it
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
    _tr_loss: torch.Tensor

    def __init__(
        self,
        model: nn.Module,
        args: DebiasingArguments,
        transform: ImageTransform | FeatureTransform,
        train_dataset: Dataset | None = None,
        eval_dataset: dict[str, ImageSplit] | None = None,
        callbacks: list | None = None,
    ):
        refuse_data_parallel(args.n_gpu)
        if train_dataset is not None:
            padded = self.splits_batches and args.world_size > 1
            _set_drop_last(model, args, len(train_dataset), padded)  # type: ignore[arg-type]
        settled: dict[str, Any] = {
            # The Trainer would push the pair while it trains, and write the token into `training_args.bin`.
            "push_to_hub": False,
            "hub_token": None,
            "run_name": args.run_name or f"{args.method} in {args.output_dir}",
            # Every forward pass uses all parameters, and searching for unused ones costs time.
            "ddp_find_unused_parameters": bool(args.ddp_find_unused_parameters),
        }
        if args.num_train_epochs and train_dataset is not None:
            steps = steps_of_epochs(args, len(train_dataset))  # type: ignore[arg-type]
            settled |= {"max_steps": steps, "num_train_epochs": 0}
        super().__init__(
            model=model,
            args=replace(args, **settled),
            data_collator=_ready_batch if args.dataloader_num_workers else Prefetch(args.device),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
        )
        if any(isinstance(callback, EarlyStoppingCallback) for callback in self.callback_handler.callbacks):
            raise BiasEnsembleError(
                "callbacks: expected no EarlyStoppingCallback, which needs metric_for_best_model, found one; "
                "--checkpoint_choice publishes the best evaluated step, and a TrainerCallback whose on_evaluate sets "
                "control.should_training_stop stops early (docs/troubleshooting.md)"
            )
        self.transform = transform
        self.checkpoint_choice = CheckpointChoice(args.checkpoint_choice)
        if args.weight_average and train_dataset is not None:
            self.weight_average = WeightAverage(self.classifier(), args.weight_average)
            self.add_callback(self.weight_average)
        self.part: BatchPart | WholeBatch = WholeBatch()
        self._terms: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.sample_groups: torch.Tensor | None = None
        self.num_groups = 0

    # The method ------------------------------------------------------------------------------------------------------

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The terms of the loss by name; their sum is minimised, and each is logged as `loss_{name}`.

        Average over samples with `self.part.mean`, which spans processes and accumulated batches.

        Args:
            model (`nn.Module`): The model, wrapped for training; call it once.
            batch (`dict[str, torch.Tensor]`): `pixel_values` (B, C, H, W) float, `labels` (B,) and `index` (B,), the
                rows of the training split.
        """
        raise NotImplementedError

    def train_sampler(self) -> Sampler | None:
        """Sampler of the training split; `None` shuffles it in each epoch.

        It must have a length and draw the same samples in all processes. `set_epoch` is called if it exists.
        """
        return None

    # Training --------------------------------------------------------------------------------------------------------

    def train_bare(self) -> None:
        """Trains to the same weights as [`~Trainer.train`], without logs, evaluations, checkpoints and callbacks:
        twice as fast if a step takes a millisecond. Falls back to `train` for settings that it does not support."""
        args = self.args
        plain = not (args.fp16 or args.bf16 or args.max_grad_norm or args.weight_average)
        if not plain or args.world_size > 1 or args.gradient_accumulation_steps > 1:
            self.remove_callback(PrinterCallback)
            self.train()
            return
        features, model = _features_in_memory(self.train_dataset), self.model.train()
        if features is None:
            loader = self.get_train_dataloader()
        else:
            split: Any = _WithoutPixels(self.train_dataset)
            draw = self._get_train_sampler
            loader = self._get_dataloader(split, "Training", self._train_batch_size, draw, is_training=True)
        self.create_optimizer_and_scheduler(args.max_steps)
        optimizer, scheduler = self.optimizer, self.lr_scheduler
        assert optimizer is not None and scheduler is not None
        self.current_gradient_accumulation_steps = 1
        for epoch in itertools.count():
            loader.set_epoch(epoch)
            for batch in loader:
                if features is None:
                    batch = self._prepare_inputs(batch)
                else:
                    drawn = self.transform.augment(features, rows=batch["index"])  # type: ignore[call-arg]
                    batch["pixel_values"] = self.transform.normalise(drawn)
                self.compute_loss(model, batch).backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                self.state.global_step += 1
                if self.state.global_step == args.max_steps:
                    self.check_finite()
                    return

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if is_alone():
            self.accelerator.state = of_one_process(self.accelerator.state)

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
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.create_optimizer(),
                lambda step: self.args.step_decay_factor ** (max(0, step - start) // every),
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(self.args.schedule_steps or num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        sampler = self.train_sampler()
        if sampler is not None and self.args.train_sampling_strategy != "random":
            raise BiasEnsembleError(
                "--train_sampling_strategy: expected random, because the method has its own sampler"
            )
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler

    def group_samples(self, groups: torch.Tensor, num_groups: int) -> None:
        """Assigns the training samples to groups. Call it in `__init__` to use `self.part.mean(values, groups)`.

        Args:
            groups (`torch.Tensor` of shape (N,), int64 or bool): Group of each row of the training split, in
                [0, num_groups).
            num_groups (`int`): Number of groups; 2 for a mask.
        """
        self.sample_groups, self.num_groups = groups.long().to(self.args.device), num_groups

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """Adds its [`BatchPart`] to each batch of an optimisation step, unless the step is a single batch."""
        if self.state.global_step >= self.state.max_steps:  # resumed after the last step
            return [], None
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        processes, rows = self.args.world_size if self.splits_batches else 1, self.args.train_batch_size
        if processes == 1 and self.args.gradient_accumulation_steps == 1:
            return batches, num_items
        samples = [processes * rows if processes > 1 else len(batch["labels"]) for batch in batches]
        ends_epoch = processes > 1 and self.accelerator.gradient_state.end_of_dataloader
        if ends_epoch and not self.args.dataloader_drop_last:  # the last batch is padded with repeated samples
            sampler = self.train_sampler()
            epoch = len(self.train_dataset if sampler is None else sampler)  # type: ignore[arg-type]
            samples[-1] = epoch % samples[-1] or samples[-1]
        first = self.args.process_index * rows if processes > 1 else 0
        parts = [BatchPart(first, num_samples, sum(samples), processes * len(batches)) for num_samples in samples]
        if self.sample_groups is not None and parts:
            own = [
                batch["index"][: part.own_samples(len(batch["index"]))]
                for batch, part in zip(batches, parts, strict=True)
            ]
            groups = self.sample_groups[torch.cat(own)]
            counts = total(group_sums(torch.ones_like(groups), groups, self.num_groups))
            parts = [replace(part, group_counts=counts) for part in parts]
        for batch, part in zip(batches, parts, strict=True):
            batch["part"] = part
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
        self.part = inputs.pop("part", WholeBatch(self.num_groups))  # type: ignore[assignment]
        terms = self.training_terms(model, inputs)
        loss = torch.stack(list(terms.values())).sum()
        self._terms["loss"].append(loss.detach())
        for name, value in terms.items():
            self._terms[f"loss_{name}"].append(value.detach())
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term since the last log."""
        if "loss" in logs:
            logs |= self._drain_terms()
        super().log(logs, start_time)

    def _drain_terms(self) -> dict[str, float]:
        """Means of the recorded terms; raises `BiasEnsembleError` at the first loss that is not finite."""
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
                    "before that step are intact"
                )
        return {name: float(values.mean()) for name, values in recorded.items()}

    def check_finite(self) -> None:
        losses = self._terms.get("loss")
        if losses and not math.isfinite(float(self.over_processes(torch.stack(losses).sum()))):
            self._drain_terms()

    def over_processes(self, values: torch.Tensor) -> torch.Tensor:
        """Losses of the whole batch, from the losses of each process."""
        return mean_of_processes(values)

    def _finalize_training(self, *args: Any) -> TrainOutput:
        self._tr_loss = self.over_processes(self._tr_loss)  # the Trainer has averaged the losses before
        return super()._finalize_training(*args)

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float | None:
        # The Trainer would compute it at every step, just to log it.
        return grad_norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0


def _set_drop_last(model: nn.Module, args: DebiasingArguments, num_samples: int, padded: bool) -> None:
    """Keeps an incomplete batch if it is the only one; drops one of a single sample, unless it will be padded, if the
    model has batch normalisation."""
    batch_size = args.train_batch_size * args.world_size
    if num_samples < batch_size:
        args.dataloader_drop_last = False
    elif not args.dataloader_drop_last and not padded and num_samples % batch_size == 1:
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            args.dataloader_drop_last = True
            if is_first():
                logger.warning(
                    "warning: each epoch leaves out its last batch, a single random sample (%d samples in batches "
                    "of %d), because batch normalisation needs at least two",
                    num_samples,
                    batch_size,
                )


class _WithoutPixels(Dataset):
    """A split whose batches come without pixels: the caller reads only the views that it draws."""

    def __init__(self, split: ImageSplit):
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        index = self.split.rows[torch.as_tensor(positions)]
        return {"labels": self.split.labels[index], "index": index}


def _features_in_memory(split: Any) -> torch.Tensor | None:
    """All features (N, 1 + V, D) of a split that holds them in host memory; else `None`."""
    values = split.pixels.values if isinstance(split, ImageSplit) and isinstance(split.pixels, Features) else None
    return values if isinstance(values, torch.Tensor) and split.on_device is None else None


def _ready_batch(batch: Any) -> Any:
    """Collates nothing: the split yields whole batches."""
    return batch
