"""Descriptors of methods and selectors: everything the rest of the library needs to know about one."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments, SelectorArguments
from hf_biasensemble.selection import Selection

_VOTES_DEPEND_ON = (
    *("seed", "data_seed", "learning_rate", "backbone_learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("gradient_accumulation_steps", "dataloader_drop_last", "bf16", "fp16"),
)
"""Training options that members share."""


@dataclass(frozen=True)
class Selector:
    """A way to decide which training samples are bias-aligned.

    Attributes:
        name: Value of `--selector`.
        title: Name for display.
        trainer: `(model_args, selection_args, args, splits, callbacks) -> BiasEnsembleTrainer` that trains the
            members; its [`~BiasEnsembleTrainer.select`] then makes the selection. Most call [`member_trainer`].
        arguments: Dataclass of its options. Those in `sways_no_vote` do not change the selection.
            `member_learning_rate`, `member_image_scale` and `member_batch_size` override the run's options.
        check: `(selection, class_names) -> None`; raises `BiasEnsembleError` if training cannot use the set.
        about: Markdown paragraph for the model card; `{name}` inserts a setting.
        citations: BibTeX entries.
        judges: Whether its members follow the shortcut, so that their predictions can be used to judge models.
    """

    name: str
    title: str
    trainer: Callable[..., Any]
    arguments: type[SelectorArguments] = SelectorArguments
    check: Callable[..., None] = Selection.check
    about: str = ""
    citations: tuple[str, ...] = ()
    judges: bool = False

    def settings(self, model_args: ModelArguments, selection_args: Any, args: DebiasingArguments) -> dict[str, Any]:
        """Everything the votes depend on besides the data. A selection is reused only if these settings are equal."""
        settings: dict[str, Any] = {name: getattr(args, name) for name in _VOTES_DEPEND_ON}
        settings |= {"selector": self.name, "batch_size": args.per_device_train_batch_size}
        for part in (selection_args, model_args):
            settings |= {f.name: getattr(part, f.name) for f in fields(part) if f.name not in part.sways_no_vote}
        for name in ("learning_rate", "image_scale", "batch_size"):
            settings[name] = settings.pop(f"member_{name}", None) or settings[name]
        settings["batch_size"] *= args.world_size
        return json.loads(json.dumps(settings, default=str))


@dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
        name: Value of `--method`.
        title: Name for display.
        trainer: A [`DebiasingTrainer`]; with a selector, it also takes `selection`.
        arguments: Dataclass of settings; its fields beyond `DebiasingArguments` are the method's options.
        network: `(model_args, class_names, seed) -> nn.Module`: builds the network to train.
        selector: The default selector, if the method trains with a selection.
        needs_set: Whether the method uses the bias-amplified set, not only the members' predictions.
        unused: Fields of `arguments` that have no effect here and are refused.
        baseline: Name of the method to compare with; `None` for the ordinary classifier.
        starts_from: Name of the method whose finished run `--init_from` must name, if any.
        purpose: Completes the sentence "An image classifier ..., trained ..." in the model card.
        about: Markdown paragraph for the model card; `{name}` inserts a setting.
        citations: BibTeX entries.
        chooses: Whether it compares the methods in `--candidates` by cross-validation and trains the best one.
    """

    name: str
    title: str
    trainer: Callable[..., Any]
    network: Callable[[ModelArguments, list[str], int], nn.Module]
    arguments: type[DebiasingArguments] = DebiasingArguments
    selector: Selector | None = None
    needs_set: bool = True
    unused: frozenset[str] = frozenset()
    baseline: str | None = None
    starts_from: str | None = None
    purpose: str = "to rely less on shortcuts in its training images, without ever reading bias labels"
    about: str = ""
    citations: tuple[str, ...] = ()
    chooses: bool = False

    @property
    def hidden(self) -> frozenset[str]:
        """Fields of `arguments` that are refused."""
        return self.unused if self.selector else self.unused | {"selector", "selector_file"}

    def argument_types(self, data_arguments: type) -> list[type]:
        """The dataclasses of all options of a run: data, model, selection (if any), training."""
        selection = [self.selector.arguments] if self.selector else []
        return [data_arguments, ModelArguments, *selection, self.arguments]

    def option_names(self) -> set[str]:
        """Names of all options that this method takes."""
        *others, own = self.argument_types(DataArguments)
        names = {field.name for field in fields(own) if field.init} - self.hidden
        return names | {field.name for kind in others for field in fields(kind) if field.init}
