"""What a method and a selector are: all that the rest of the library has to know of one, in one place.

Arguments, run, network, card, sweep and tests read these; nobody asks how a name begins or ends.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments


@dataclass(frozen=True)
class Selector:
    """Who says which training samples are bias-conflicting.

    Attributes:
        name: As in file names.
        title: As in texts.
        arguments: Dataclass of its own options.
        settings: `(model_args, selection_args, args) -> dict`: all that its votes depend on besides the data, as plain
            values. A selection is used again only where they are equal.
        trainer: `(model_args, selection_args, args, splits, callbacks) -> BiasEnsembleTrainer`, which trains members
            and then has [`~BiasEnsembleTrainer.select`].
        check: `(selection, class_names) -> None`: raises `BiasEnsembleError` if the selection cannot serve training.
        about: A paragraph of Markdown for the model card; `{name}` stands for a setting.
        citations: BibTeX entries.
        judges: Whether its members follow the shortcut, so that what they predict can judge models.
    """

    name: str
    title: str
    arguments: type
    settings: Callable[..., dict[str, Any]]
    trainer: Callable[..., Any]
    check: Callable[..., None]
    about: str = ""
    citations: tuple[str, ...] = ()
    judges: bool = False


@dataclass(frozen=True)
class Method:
    """A way of training.

    Attributes:
        name: As given to `--method`.
        title: As in texts.
        trainer: A [`DebiasingTrainer`]; with a selector, it takes `selection`.
        arguments: The trainer's dataclass of settings; what it adds to `DebiasingArguments` are the method's options.
        network: `(model_args, class_names, seed) -> nn.Module`: what is built and trained.
        selector: Who makes the selection that it trains with, if it needs one.
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
    unused: frozenset[str] = frozenset()
    baseline: str | None = None
    starts_from: str | None = None
    purpose: str = "to rely less on shortcuts in its training images, without ever reading bias labels"
    about: str = ""
    citations: tuple[str, ...] = ()
    chooses: bool = False

    def argument_types(self, data_arguments: type) -> list[type]:
        """The dataclasses of all options of a run: data, model, selection where there is one, training."""
        selection = [self.selector.arguments] if self.selector else []
        return [data_arguments, ModelArguments, *selection, self.arguments]

    def option_names(self) -> set[str]:
        """Names of all options of a run with this method."""
        *others, own = self.argument_types(DataArguments)
        names = {field.name for field in fields(own) if field.init} - self.unused
        return names | {field.name for kind in others for field in fields(kind) if field.init}
