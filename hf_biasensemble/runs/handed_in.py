"""From a trainer's arguments to what it works with: decoded splits, settings, a network and a selection."""

import contextlib
import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import datasets
from torch import nn
from transformers import PreTrainedModel

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments, settle_steps
from hf_biasensemble.arguments.data import IN_MEMORY
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.data.loading import load_splits, splits_in_memory
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import decode_splits, image_geometry, parts_to_use
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.build import classifier_alone
from hf_biasensemble.models.inputs import Inputs
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.runs.functions import backbone_of, keep_model
from hf_biasensemble.runs.prepared import Prepared
from hf_biasensemble.runs.run import check_network
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors import SELECTORS
from hf_biasensemble.trainers.checkpoint_choice import check_checkpoint_choice


@dataclass
class HandedIn:
    """What a trainer works with, made from its arguments.

    Attributes:
        prepared: Data and settings.
        inputs: Splits that networks see; `train` is trained on, the others are evaluated.
        network: What is trained.
        selection: Votes on the training images; `None` where the method needs none, or another was given.
    """

    prepared: Prepared
    inputs: Inputs
    network: nn.Module
    selection: Selection | None

    @classmethod
    def of(
        cls,
        kind: type,
        model: Any,
        args: Any,
        train: Any,
        evaluated: Any,
        selection_args: Any,
        data_args: DataArguments | None,
        processing_class: Any,
        makes_selection: bool,
        callbacks: list | None,
    ) -> "HandedIn":
        """From the arguments of a `DebiasingTrainer` of this kind."""
        method = method_of(kind, args)
        args = settings_of(kind, method, args)
        if args.selector:
            method = replace(method, selector=SELECTORS[args.selector])
        if model is None and data_args is not None and data_args.feature_column:
            model = ModelArguments()  # heads of vectors
        model_args, network = _network_of(kind, method, model, args, processing_class)
        data_args = copy.copy(data_args or DataArguments(IN_MEMORY, validation_share=0, test_share=0))
        selector = method.selector if makes_selection else None
        selection_args = (selection_args or selector.arguments()) if selector else None
        load = partial(_images, train, evaluated, data_args)
        prepared = Prepared.of(method, data_args, model_args, selection_args, args, load)
        names = prepared.splits["train"].class_names
        check_checkpoint_choice(args, prepared.splits, has_members=False)  # no members judge here
        if network is None:
            check_network(prepared)
        inputs = prepared.inputs()
        network = network or method.network(inputs.network_args, names, args.seed)
        settle_steps(args, len(prepared.splits["train"]), {})
        selection = None
        if selector:
            anew = copy.copy(args)
            anew.resume_from_checkpoint = None  # nothing has told yet that it is the same run
            selection, _ = make_selection(selector, inputs, prepared.selection_args, anew, callbacks=callbacks or ())
        return cls(prepared, inputs, network, selection)

    def splits_of(self, evaluated: Any, name: str) -> dict[str, ImageSplit]:
        """Further datasets by name as the network sees them; a single one has this name."""
        data_args, device = self.prepared.data_args, self.prepared.args.device
        images = _evaluated(evaluated, name, data_args, self.inputs.image_args)
        if self.inputs.backbone is None or not self.inputs.image_args.freeze_backbone:
            return images
        every = {"train": self.inputs.images["train"], **images}
        encoded = self.inputs.backbone.encode(every, data_args, device)["final"]
        return {key: encoded[key] for key in images}


def method_of(kind: type, args: Any) -> Method:
    """The method of a trainer: the one that its settings name, if several use this trainer.

    A trainer that no method uses is the user's own, which trains a classifier alone.
    """
    own: list[Method] = []
    for base in kind.__mro__:
        own = own or [METHODS[name] for name in METHODS if METHODS[name].trainer is base and not METHODS[name].chooses]
    asked = getattr(args, "method", None)
    named = [method for method in own if method.name == asked]
    if named or not own:
        return named[0] if named else Method(kind.__name__, kind.__name__, kind, classifier_alone)
    if asked not in (None, DebiasingArguments.method):
        names = " or ".join(method.name for method in own)
        raise BiasEnsembleError(f"{kind.__name__}: expected args of the method {names}, found {asked}; name that one")
    return next((method for method in own if method.selector), own[0])


def settings_of(kind: type, method: Method, args: Any) -> DebiasingArguments:
    """The method's own arguments; made from the common ones if only these were given."""
    wanted = method.arguments
    args = wanted("trainer_output") if args is None else args
    if not isinstance(args, DebiasingArguments) or not issubclass(wanted, type(args)):
        raise BiasEnsembleError(
            f"{kind.__name__}: expected args of the type {wanted.__name__} or DebiasingArguments, found "
            f"{type(args).__name__}; these have the options that other methods need"
        )
    given = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    for field in fields(args):
        if field.name in method.hidden and given[field.name] != field.default:
            raise BiasEnsembleError(f"--{field.name}: has no effect with --method {method.name}; leave it out")
    return wanted(**given | {"method": method.name})


def _network_of(
    kind: type, method: Method, model: Any, args: DebiasingArguments, processing_class: Any
) -> tuple[ModelArguments, nn.Module | None]:
    """How images are preprocessed and which network is built, and the network itself if it was given."""
    if isinstance(model, ModelArguments):
        return model, None
    is_name = isinstance(model, (str, Path))
    from_outside = isinstance(model, PreTrainedModel) and not isinstance(model, DebiasedImageClassifier)
    if is_name or from_outside or not isinstance(model, nn.Module):
        keep_model(model, processing_class, args)
        name = backbone_of(model, Path(args.output_dir))
        return ModelArguments(name, pretrained=not is_name), None
    wanted = get_type_hints(method.network).get("return", nn.Module)
    if not isinstance(model, wanted):
        build = getattr(method.network, "__name__", "method.network")
        raise BiasEnsembleError(
            f"{kind.__name__}: expected a backbone's name, a model of transformers or a {wanted.__name__}, found a "
            f"{type(model).__name__}; {build}(model_args, class_names, seed) builds one"
        )
    config: Any = getattr(getattr(model, "debiased", model), "config", None)
    arguments = json.dumps(config.backbone_args or {})
    return ModelArguments(config.backbone, arguments, image_size=config.image_size), model


def _images(train: Any, evaluated: Any, data_args: DataArguments, model_args: ModelArguments) -> dict[str, ImageSplit]:
    """Decoded splits by name, `train` among them."""
    if isinstance(train, ImageSplit):
        data_args.in_memory = {}
        return {"train": train, **_evaluated(evaluated, "eval", data_args, model_args)}
    if train is None:
        raise BiasEnsembleError("train_dataset: expected a datasets.Dataset with images and labels, found none")
    data_args.in_memory = splits_in_memory(train)
    labelled = load_splits(data_args)
    if "train" not in labelled:
        raise BiasEnsembleError(f"train_dataset: expected a split train, found {', '.join(data_args.in_memory)}")
    if evaluated is not None:
        labelled = {"train": labelled["train"]}
    decoded = decode_splits(labelled, data_args, image_geometry(model_args), data_args.skip_unreadable_images)
    if evaluated is None:
        return parts_to_use(decoded, data_args)
    return decoded | _evaluated(evaluated, "eval", data_args, model_args)


def _evaluated(
    evaluated: Any, name: str, data_args: DataArguments, model_args: ModelArguments
) -> dict[str, ImageSplit]:
    """Decoded splits by name, with the classes of the training images."""
    if evaluated is None:
        return {}
    named: Mapping[str, Any] = evaluated if isinstance(evaluated, dict) else {name: evaluated}
    splits = {key: data for key, data in named.items() if isinstance(data, ImageSplit)}
    plain = {key: splits_in_memory(data)["train"] for key, data in named.items() if key not in splits}
    if "train" in named:
        raise BiasEnsembleError("eval_dataset: expected another name than train, found train; rename it")
    for key, data in plain.items():
        both = copy.copy(data_args)
        both.in_memory = {**_train_of(data_args), "test": data}
        with contextlib.redirect_stdout(io.StringIO()):  # how the training data are read has been said
            labelled = load_splits(both)
        if "test" not in labelled:
            raise BiasEnsembleError(f"eval_dataset {key}: expected a label of each image, found none")
        only = {"test": labelled["test"]}
        splits[key] = decode_splits(only, both, image_geometry(model_args), both.skip_unreadable_images)["test"]
    return {key: splits[key] for key in named}


def _train_of(data_args: DataArguments) -> dict[str, datasets.Dataset]:
    """The training data, which say what the classes are."""
    names = [data_args.train_split, "train"]
    found = [split for name, split in (data_args.in_memory or {}).items() if name in names]
    return {"train": found[0]} if found else {}
