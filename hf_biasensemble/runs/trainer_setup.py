"""Turns a trainer's arguments into decoded splits, settings, a network and a selection."""

import contextlib
import copy
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn
from transformers import PreTrainedModel, TrainerCallback

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
from hf_biasensemble.runs.functions import backbone_of, save_initial_model
from hf_biasensemble.runs.prepared import Prepared
from hf_biasensemble.runs.run import check_network
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors import SELECTORS
from hf_biasensemble.trainers.checkpoint_choice import check_checkpoint_choice


@dataclass
class TrainerSetup:
    """Everything a trainer works with, built from its arguments."""

    prepared: Prepared
    inputs: Inputs
    network: nn.Module
    selection: Selection | None  # None if the method needs none or another was given

    @classmethod
    def of(
        cls,
        trainer: type,
        model: Any,
        args: Any,
        train: Any,
        evaluated: Any,
        selection_args: Any,
        data_args: DataArguments | None,
        processing_class: Any,
        makes_selection: bool,
        callbacks: Sequence[TrainerCallback],
    ) -> "TrainerSetup":
        """Takes the arguments of a `DebiasingTrainer` of this class."""
        method = _method_of(trainer, args)
        args = _settings_of(trainer, method, args)
        if args.selector:
            method = replace(method, selector=SELECTORS[args.selector])
        if model is None and data_args is not None and data_args.feature_column:
            model = ModelArguments()
        model_args, network = _network_of(trainer, method, model, args, processing_class)
        data_args = copy.copy(data_args or DataArguments(IN_MEMORY, validation_share=0, test_share=0))
        selector = method.selector if makes_selection else None
        selection_args = (selection_args or selector.arguments()) if selector else None
        load = partial(_images, train, evaluated, data_args)
        prepared = Prepared.of(method, data_args, model_args, selection_args, args, load)
        check_checkpoint_choice(args, prepared.splits, has_members=False)  # no members judge here
        if network is None:
            check_network(prepared)
        inputs = prepared.inputs()
        class_names = prepared.splits["train"].class_names
        network = network or method.network(inputs.network_args, class_names, args.seed)
        settle_steps(args, len(prepared.splits["train"]), {})
        selection = None
        if selector:
            fresh = copy.copy(args)
            fresh.resume_from_checkpoint = None  # only `train` checks that it resumes the same run
            selection, _ = make_selection(selector, inputs, prepared.selection_args, fresh, callbacks=callbacks)
        return cls(prepared, inputs, network, selection)

    def splits_of(self, evaluated: Any, name: str) -> dict[str, ImageSplit]:
        """Further datasets by name as the network takes them; `name` is that of a single one."""
        data_args, device = self.prepared.data_args, self.prepared.args.device
        images = _evaluated(evaluated, name, data_args, self.inputs.image_args)
        if self.inputs.backbone is None or not self.inputs.image_args.freeze_backbone:
            return images
        every = {"train": self.inputs.images["train"], **images}
        encoded = self.inputs.backbone.encode(every, data_args, device)["final"]
        return {key: encoded[key] for key in images}


def _method_of(trainer: type, args: Any) -> Method:
    """The trainer's method; if several share the trainer, the one that `args` name.

    A trainer without a method is user-defined and trains a single classifier.
    """
    methods = [method for method in METHODS.values() if not method.chooses]
    by_class = ([method for method in methods if method.trainer is base] for base in trainer.__mro__)
    own = next(filter(None, by_class), [])
    if not own:
        return Method(trainer.__name__, trainer.__name__, trainer, classifier_alone)
    asked = getattr(args, "method", None)
    for method in own:
        if method.name == asked:
            return method
    if asked not in (None, DebiasingArguments.method):
        names = " or ".join(method.name for method in own)
        raise BiasEnsembleError(
            f"{trainer.__name__}: expected args of the method {names}, found {asked}; name that one"
        )
    return next((method for method in own if method.selector), own[0])


def _settings_of(trainer: type, method: Method, args: Any) -> DebiasingArguments:
    """Converts the arguments to the method's own type; general `DebiasingArguments` will do."""
    wanted = method.arguments
    args = wanted("trainer_output") if args is None else args
    if not isinstance(args, DebiasingArguments) or not issubclass(wanted, type(args)):
        raise BiasEnsembleError(
            f"{trainer.__name__}: expected args of the type {wanted.__name__} or DebiasingArguments, found "
            f"{type(args).__name__}; pass one of these"
        )
    given = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    for field in fields(args):
        if field.name in method.hidden and given[field.name] != field.default:
            raise BiasEnsembleError(f"--{field.name}: has no effect with --method {method.name}; leave it out")
    return wanted(**given | {"method": method.name})


def _network_of(
    trainer: type, method: Method, model: Any, args: DebiasingArguments, processing_class: Any
) -> tuple[ModelArguments, nn.Module | None]:
    """The network's arguments, and the network itself if `model` is a finished one."""
    if isinstance(model, ModelArguments):
        return model, None
    is_backbone = isinstance(model, PreTrainedModel) and not isinstance(model, DebiasedImageClassifier)
    if is_backbone or not isinstance(model, nn.Module):
        save_initial_model(model, processing_class, args)
        name = backbone_of(model, Path(args.output_dir))
        return ModelArguments(name, pretrained=not isinstance(model, (str, Path))), None
    wanted = get_type_hints(method.network).get("return", nn.Module)
    if not isinstance(model, wanted):
        build = getattr(method.network, "__name__", "method.network")
        raise BiasEnsembleError(
            f"{trainer.__name__}: expected a backbone's name, a model of transformers or a {wanted.__name__}, found a "
            f"{type(model).__name__}; {build}(model_args, class_names, seed) builds one"
        )
    config: Any = getattr(getattr(model, "debiased", model), "config", None)
    arguments = json.dumps(config.backbone_args or {})
    return ModelArguments(config.backbone, arguments, image_size=config.image_size), model


def _images(train: Any, evaluated: Any, data_args: DataArguments, model_args: ModelArguments) -> dict[str, ImageSplit]:
    """Decodes the training images and those to evaluate, by name."""
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
    """Decodes datasets by name, with the classes of the training images."""
    if evaluated is None:
        return {}
    named: Mapping[str, Any] = evaluated if isinstance(evaluated, dict) else {name: evaluated}
    splits = {key: data for key, data in named.items() if isinstance(data, ImageSplit)}
    plain = {key: splits_in_memory(data)["train"] for key, data in named.items() if key not in splits}
    if "train" in named:
        raise BiasEnsembleError("eval_dataset: expected another name than train, found train; rename it")
    # The training data define the classes.
    train = [data for key, data in (data_args.in_memory or {}).items() if key in ("train", data_args.train_split)]
    for key, data in plain.items():
        both = copy.copy(data_args)
        both.in_memory = {**({"train": train[0]} if train else {}), "test": data}
        with contextlib.redirect_stdout(io.StringIO()):  # the trainer has printed how the training data are read
            labelled = load_splits(both)
        if "test" not in labelled:
            raise BiasEnsembleError(f"eval_dataset {key}: expected a label of each image, found none")
        only = {"test": labelled["test"]}
        splits[key] = decode_splits(only, both, image_geometry(model_args), both.skip_unreadable_images)["test"]
    return {key: splits[key] for key in named}
