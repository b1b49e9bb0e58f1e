"""Several processes share out the members of an ensemble, so that each is trained as one process would train it."""

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
    """Process r of n trains members r, r + n, r + 2n, ... of the M members, each on the whole batch of all processes.

    Members do not depend on each other, so no gradient is averaged and no sum is formed in another order: each member
    gets the weights that one process would give it, batch normalisation included. For votes and checkpoints, each
    process receives the members from those that train them.

    Processes beyond the M-th train a member that another one trains as well, to no effect.

    Args:
        train_dataset (`MemberBatches` or `ImageSplit`): A batch for each member, or one batch for all of them.

    Attributes:
        own_members: The numbers of the members that this process trains, in ascending order.
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
            train_dataset = train_dataset.only(self.own_members)
            own = slice(self.own_members[0], None, args.world_size)
            transform = _MemberTransform(transform, num_members, own)  # type: ignore[assignment]
        super().__init__(model, args, transform, train_dataset, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.world_size > 1:  # all that prepares a model for training but the averaging of gradients
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of all processes, as one process would load them."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        batch_size = self.args.train_batch_size * self.args.world_size
        loader = self._get_dataloader(
            self.train_dataset, "Training", batch_size, self._get_train_sampler, is_training=True
        )
        part: Any = loader.batch_sampler
        part.num_processes, part.process_index, part.even_batches = 1, 0, False
        return loader

    def over_processes(self, values: torch.Tensor) -> torch.Tensor:
        beyond = self.args.process_index >= len(self.model.members)
        return total(torch.zeros_like(values) if beyond else values)

    def _finalize_training(self, *args: Any) -> TrainOutput:
        self._total_loss_scalar *= self.args.world_size  # what was logged, of which the Trainer takes the mean
        return super()._finalize_training(*args)

    def _clip_grad_norm(self, model: nn.Module) -> None:
        """Clips each member by itself, as in a run of its own, whoever trains the others."""
        self.accelerator.unscale_gradients()
        for member in self.model.members:
            nn.utils.clip_grad_norm_(member.parameters(), self.args.max_grad_norm)

    # What all processes need -----------------------------------------------------------------------------------------

    def share_members(self, with_adam: bool = False) -> None:
        """Gives each process the weights and buffers of all members, as the processes that train them have them.

        Args:
            with_adam (`bool`, *optional*, defaults to `False`): And what the optimiser remembers of them.
        """
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
        """Steps and moments of the member's parameters: zeros where this process has not trained them."""
        assert self.optimizer is not None
        state = []
        for parameter in (parameter for parameter in member.parameters() if parameter.requires_grad):
            of_parameter = self.optimizer.state[parameter]
            if not of_parameter:
                of_parameter["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                of_parameter["exp_avg"] = torch.zeros_like(parameter)
                of_parameter["exp_avg_sq"] = torch.zeros_like(parameter)
            state += of_parameter.values()
        return state


@dataclass(frozen=True)
class _MemberTransform:
    """Draws for the batches of all members, as one process does, and uses the draws of its own ones."""

    transform: ImageTransform | FeatureTransform
    num_members: int
    own_members: slice  # a list of numbers would be copied to the device at each step

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
