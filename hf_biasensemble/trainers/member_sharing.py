"""Distributes the members of an ensemble over processes, with the results of a single process."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import TrainOutput

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.data.batches.member_batches import MemberBatches
from hf_biasensemble.data.batches.transforms import Draw, ImageTransform, draw_for_these
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.internal.collectives import from_process, total
from hf_biasensemble.models.pair import MemberEnsemble
from hf_biasensemble.trainers.base import DebiasingTrainer


class MemberSharingTrainer(DebiasingTrainer):
    """Process r of n trains the members r, r + n, r + 2n, ... (`own_members`), each on the whole batch.

    Members are independent, so no gradient is averaged and all sums keep their order: each member gets the same
    weights as in a single process, including batch normalisation. [`~MemberSharingTrainer.share_members`] distributes
    them for votes and checkpoints. Processes in excess of the members repeat the work of others, to no effect.
    """

    splits_batches = False
    model: MemberEnsemble

    def __init__(
        self,
        model: MemberEnsemble,
        args: DebiasingArguments,
        transform: ImageTransform | FeatureTransform,
        train_dataset: MemberBatches | ImageSplit,
        **kwargs: Any,
    ):
        num_members = len(model.members)
        self.own_members = tuple(range(args.process_index % num_members, num_members, args.world_size))
        if args.world_size > 1 and isinstance(train_dataset, MemberBatches):
            own = slice(self.own_members[0], None, args.world_size)
            train_dataset = MemberBatches(train_dataset.split, train_dataset.order[own])
            transform = _MemberTransform(transform, num_members, own)  # type: ignore[assignment]
        super().__init__(model, args, transform, train_dataset, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.world_size > 1:  # prepares the model, but does not average gradients
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def get_train_dataloader(self) -> DataLoader:
        """Loads the batches of all processes in each of them."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        batch_size = self.args.train_batch_size * self.args.world_size
        draw = self._get_train_sampler
        loader = self._get_dataloader(self.train_dataset, "Training", batch_size, draw, is_training=True)
        part: Any = loader.batch_sampler
        part.num_processes, part.process_index, part.even_batches = 1, 0, False
        return loader

    def over_processes(self, values: torch.Tensor) -> torch.Tensor:
        beyond = self.args.process_index >= len(self.model.members)
        return total(torch.zeros_like(values) if beyond else values)

    def _finalize_training(self, *args: Any) -> TrainOutput:
        self._total_loss_scalar *= self.args.world_size  # the Trainer averages it
        return super()._finalize_training(*args)

    def _clip_grad_norm(self, model: nn.Module) -> None:
        """Clips the gradients of each member separately."""
        self.accelerator.unscale_gradients()
        for member in self.model.members:
            nn.utils.clip_grad_norm_(member.parameters(), self.args.max_grad_norm)

    def share_members(self, with_adam: bool = False) -> None:
        """Broadcasts weights and buffers of all members, optionally with their optimizer state."""
        if self.args.world_size == 1:
            return
        for number, member in enumerate(self.model.members):
            adam = self._adam_state(member) if with_adam else []
            for tensor in [*member.parameters(), *member.buffers(), *adam]:
                from_process(tensor.detach(), number % self.args.world_size)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.share_members(with_adam=True)
        super()._save_checkpoint(model, trial)

    def _adam_state(self, member: nn.Module) -> list[torch.Tensor]:
        """Optimizer state of the member's parameters; created as zeros if this process does not train them."""
        assert self.optimizer is not None
        tensors = []
        for parameter in (parameter for parameter in member.parameters() if parameter.requires_grad):
            state = self.optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            tensors += state.values()
        return tensors


@dataclass(frozen=True)
class _MemberTransform:
    """Draws for all members, as a single process does, and uses the draws of this process's own."""

    transform: ImageTransform | FeatureTransform
    num_members: int
    own_members: slice  # not a list, which would be copied to the device at each step

    def __call__(self, pixels: torch.Tensor, training: bool) -> torch.Tensor:
        return self.transform(pixels, training)

    def augment(self, pixels: torch.Tensor, draw: Draw = draw_for_these) -> torch.Tensor:
        samples = len(pixels)

        def draw_for_all(make: Callable[[int], torch.Tensor], count: int) -> torch.Tensor:
            drawn = make(samples * self.num_members).unflatten(1, (samples, self.num_members))
            return drawn[:, :, self.own_members].flatten(1, 2)

        augmented = self.transform.augment(pixels.flatten(0, 1), draw_for_all)
        return augmented.unflatten(0, pixels.shape[:2])

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.transform.normalise(pixels)
