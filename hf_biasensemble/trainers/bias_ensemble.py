"""BiasEnsemble: briefly trained biased members vote on which training samples follow the shortcut."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from hf_biasensemble.arguments import DebiasingArguments, SelectionArguments
from hf_biasensemble.arguments.selection import UNEVEN_CLASSES
from hf_biasensemble.data.batches.member_batches import MemberBatches
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.store.features import FeatureTransform
from hf_biasensemble.evaluation.classifier import joined
from hf_biasensemble.losses.objectives import generalized_cross_entropy, true_class_probability
from hf_biasensemble.models.pair import MemberEnsemble
from hf_biasensemble.selection import DENSE_CLASSES, TOP_CLASSES, Selection
from hf_biasensemble.trainers.member_sharing import MemberSharingTrainer

_BEST_ACCURACY = "best_accuracy"


class BiasEnsembleTrainer(MemberSharingTrainer):
    """Trains all members in one run and selects the bias-amplified set by their votes.

    With `cross_fit`, a member is a pair of networks. Each is trained on one half of the images and votes on the other,
    so no member votes on an image that it was trained on.

    The loss is the sum of the members' mean losses. Adam updates each parameter independently, so training them
    together equals separate runs. Logs `loss_member_0`, `loss_member_1`, ...

    Args:
        model (`MemberEnsemble`): The untrained members.
        args (`DebiasingArguments`): Settings; `max_steps` is the number of member steps.
        transform (`ImageTransform` or `FeatureTransform`): Turns uint8 batches, or stored features, into inputs.
        selection_args (`SelectionArguments`): How members are trained and vote.
        train_dataset (`ImageSplit`): The training split.
        eval_dataset (`dict[str, ImageSplit]`, *optional*): Must have `validation` with `keep_member="best"`.
        batches (`MemberBatches`, *optional*): Batches of the members; by default in random orders from `args.seed`.
        callbacks (`list[TrainerCallback]`, *optional*): Further callbacks.
        loss (`Callable`, *optional*): Per-sample loss of the members: logits (B, M, K), labels (B, M) -> (B, M). By
            default the generalized cross entropy.
        rule (`Callable`, *optional*): Changes the selection that the votes make: `Selection` -> `Selection`.
    """

    def __init__(
        self,
        model: MemberEnsemble,
        args: DebiasingArguments,
        transform: ImageTransform | FeatureTransform,
        selection_args: SelectionArguments,
        train_dataset: ImageSplit,
        eval_dataset: dict[str, ImageSplit] | None = None,
        batches: MemberBatches | None = None,
        callbacks: list | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        rule: Callable[[Selection], Selection] | None = None,
    ):
        self.member_loss = loss or partial(generalized_cross_entropy, q=selection_args.generalized_cross_entropy_q)
        self.rule = rule
        self.num_networks = len(model.members)
        self.num_members = selection_args.num_members
        self.trained_on: torch.Tensor | None = None  # (R, M) with cross_fit, by the first network of each pair
        self.selection_args = selection_args
        self.member_transform = transform
        self.split = train_dataset
        self.best_accuracy = torch.full((self.num_networks,), -1.0)
        self.best_state: dict[str, torch.Tensor] = {}
        if batches is None and selection_args.cross_fit:
            batches, self.trained_on = MemberBatches.cross_fitted(train_dataset, self.num_members, args.seed)
        elif batches is None and not selection_args.share_batches:
            batches = MemberBatches.shuffled(train_dataset, self.num_members, args.seed)
        if batches is not None and _balanced(selection_args, train_dataset):
            batches = batches.balanced(args.seed)
        callbacks = list(callbacks or [])
        if selection_args.keep_member == "best":
            callbacks.append(_EvaluateMembers(selection_args.member_eval_steps))
        super().__init__(
            model, args, transform, batches or train_dataset, eval_dataset=eval_dataset, callbacks=callbacks
        )

    def training_terms(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own = len(self.own_members)
        at_once = self.selection_args.members_at_once or own
        losses: list[torch.Tensor] = []
        for start in range(0, own, at_once):
            found = self._mean_losses(model, batch, slice(start, start + at_once))
            if start + at_once < own:  # members are independent: this frees memory before the next ones
                self.accelerator.backward(found.sum() / self.current_gradient_accumulation_steps)
                found = found.detach()
            losses += found.unbind()
        terms = dict(zip(self.own_members, losses, strict=True))
        for number in set(range(self.num_networks)) - terms.keys():
            terms[number] = losses[0].new_zeros(())
        return {f"member_{number}": terms[number] for number in range(self.num_networks)}

    def _mean_losses(self, model: nn.Module, batch: dict[str, torch.Tensor], part: slice) -> torch.Tensor:
        """Mean losses of this part of the process's own members."""
        numbers, pixels, labels = self.own_members[part], batch["pixel_values"], batch["labels"]
        if per_member := labels.dim() == 2:
            pixels, labels = pixels[:, part], labels[:, part]
        else:
            labels = labels[:, None].expand(-1, len(numbers))
        logits = model(pixel_values=pixels, numbers=numbers, per_member=per_member)["logits"]
        return self.part.mean(self.member_loss(logits, labels))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Validation accuracy of each member; keeps the weights of those that improved."""
        self.share_members()
        split = (eval_dataset or self.eval_dataset)["validation"]
        right = [
            self.predict_logits(part).argmax(dim=-1) == part.labels[part.rows, None]
            for part in self.in_blocks(split, self.num_networks * len(split.class_names))
        ]
        accuracy = torch.cat(right).float().mean(dim=0)
        for number in (accuracy > self.best_accuracy).nonzero().flatten().tolist():
            state = self.model.members[number].state_dict()
            self.best_state |= {f"members.{number}.{name}": value.clone() for name, value in state.items()}
        self.best_accuracy = torch.maximum(self.best_accuracy, accuracy)
        metrics = {f"validation_accuracy_member_{number}": value for number, value in enumerate(accuracy.tolist())}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def method_state(self) -> dict[str, torch.Tensor]:
        weights = {name: value.contiguous() for name, value in self.best_state.items()}
        return {_BEST_ACCURACY: self.best_accuracy, **weights}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        self.best_accuracy = state[_BEST_ACCURACY]
        self.best_state = {name: value for name, value in state.items() if name != _BEST_ACCURACY}

    def member_votes(self) -> dict[str, np.ndarray]:
        """Predictions of the trained members for each training sample, without augmentation and in float32.

        Ends mixed precision training: the trainer cannot train any further.

        Returns:
            `dict[str, np.ndarray]`: The true class's probability by each member, `member_probabilities` (N, M), and
            the predictions in columns of [`Selection`].
        """
        self.share_members()
        # bfloat16 has no number between 0.9922 and 0.9961, and the wrapper that is removed here would force it.
        members = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

        def in_parts() -> Iterator[dict[str, np.ndarray]]:
            done = 0
            for part in self.in_blocks(self.split, self.num_networks * len(self.split.class_names)):
                logits = self.predict_logits(part, members, full_precision=True)
                if self.trained_on is not None:
                    first, second = logits.chunk(2, dim=1)
                    logits = torch.where(self.trained_on[done : done + len(part), :, None], second, first)
                labels = part.labels[part.rows, None].expand(-1, self.num_members)
                yield {"member_probabilities": true_class_probability(logits, labels).numpy(), **_predictions(logits)}
                done += len(part)

        return joined(in_parts(), len(self.split))

    def select(self, provenance: dict | None = None) -> Selection:
        """Selects the bias-amplified set by the votes of the trained members.

        With `keep_member="best"`, each member votes with its weights of the best validation accuracy. Whether the set
        is usable is left to [`Selection.check`].

        Args:
            provenance (`dict`, *optional*): What the selection depends on.
        """
        if self.best_state:
            self.model.load_state_dict(self.best_state)
        votes = self.member_votes()
        selection = Selection.from_votes(
            votes.pop("member_probabilities").T,
            index=self.split.rows.numpy(),
            threshold=self.selection_args.member_threshold,
            agreement=self.selection_args.member_agreement,
            provenance=provenance,
            keep=self.selection_args.member_keep,
            **self.split.measured_by(),
            **votes,
        )
        return self.rule(selection) if self.rule else selection


def _balanced(selection_args: SelectionArguments, split: ImageSplit) -> bool:
    """Whether members see all classes equally often: as set, or if the class sizes differ a lot."""
    if selection_args.balance_members is not None:
        return selection_args.balance_members
    sizes = torch.bincount(split.labels[split.rows])
    return int(sizes.max()) > UNEVEN_CLASSES * int(sizes[sizes > 0].min())


def _predictions(logits: torch.Tensor) -> dict[str, np.ndarray]:
    """Predictions and agreement of the members from their logits (N, M, K), as columns of [`Selection`]."""
    mean = torch.stack([member.float().softmax(dim=-1) for member in logits.unbind(1)]).mean(dim=0)
    predicted = mean.argmax(dim=-1)
    probability = true_class_probability(logits, predicted[:, None].expand(-1, logits.shape[1]))
    found = {
        "predicted_labels": predicted,
        "agreeing_members": (logits.argmax(dim=-1) == predicted[:, None]).sum(dim=1),
        "lowest_probability": probability.amin(dim=1),
        "probabilities": mean.half(),
    }
    if mean.shape[1] > DENSE_CLASSES:
        top = mean.topk(TOP_CLASSES, dim=1)
        found |= {"probabilities": top.values.half(), "probability_classes": top.indices.int()}
    return {name: values.numpy() for name, values in found.items()}


class _EvaluateMembers(TrainerCallback):
    """Evaluates after step 1 and every `steps` steps from there."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = (state.global_step - 1) % self.steps == 0
