"""What a method and a selector are: all that the rest of the library has to know of one, in one place."""

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
"""Options of training that members are trained with."""


@dataclass(frozen=True)
class Selector:
    """Who says which training samples are bias-conflicting.

    Attributes:
        name: As given to `--selector`.
        title: As in texts.
        trainer: `(model_args, selection_args, args, splits, callbacks) -> BiasEnsembleTrainer`, which trains members
            and then has [`~BiasEnsembleTrainer.select`]; most call [`member_trainer`].
        arguments: Dataclass of its options. Those in its `sways_no_vote` do not change the selection; one called
            `member_learning_rate`, `member_image_scale` or `member_batch_size` stands in place of the run's.
        check: `(selection, class_names) -> None`: raises `BiasEnsembleError` if the set cannot serve training.
        about: A paragraph of Markdown for the model card; `{name}` stands for a setting.
        citations: BibTeX entries.
        judges: Whether its members follow the shortcut, so that what they predict can judge models.
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
        """All that its votes depend on besides the data, as plain values: options of training, of the model and of the
        selector. A selection is reused only if these are equal."""
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
    """A way of training.

    Attributes:
        name: As given to `--method`.
        title: As in texts.
        trainer: A [`DebiasingTrainer`]; with a selector, it takes `selection`.
        arguments: The trainer's dataclass of settings; what it adds to `DebiasingArguments` are the method's options.
        network: `(model_args, class_names, seed) -> nn.Module`: what is built and trained.
        selector: Who makes the selection that it trains with, if it needs one and `--selector` names no other.
        needs_set: Whether the selected set must be of use; not where only what members predict is read.
        unused: Options of `arguments` that do nothing here, and are refused.
        baseline: Name of the method that gains are counted against; `None` for the ordinary classifier.
        starts_from: Name of the method whose finished run it starts from with `--init_from`, if it must.
        purpose: Ends the sentence "An image classifier ..., trained ..." of the model card.
        about: A paragraph of Markdown for the model card; `{name}` stands for a setting.
        citations: BibTeX entries.
        chooses: Whether it trains nothing itself, but judges the candidates of `--candidates` by folds and trains the
            best of them.
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
        """Options of `arguments` that are refused."""
        return self.unused if self.selector else self.unused | {"selector", "selector_file"}

    def argument_types(self, data_arguments: type) -> list[type]:
        """The dataclasses of all options of a run: data, model, selection where there is one, training."""
        selection = [self.selector.arguments] if self.selector else []
        return [data_arguments, ModelArguments, *selection, self.arguments]

    def option_names(self) -> set[str]:
        """Names of all options of a run with this method."""
        *others, own = self.argument_types(DataArguments)
        names = {field.name for field in fields(own) if field.init} - self.hidden
        return names | {field.name for kind in others for field in fields(kind) if field.init}
