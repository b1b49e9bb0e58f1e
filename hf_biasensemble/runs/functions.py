"""`fit`, `audit` and `judge`: the commands `train`, `audit` and `judge` as Python functions.

Keyword arguments are turned into a command line, so the same parser and code handle both.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from numbers import Number
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from transformers import PreTrainedModel

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, InferenceArguments, parse_arguments
from hf_biasensemble.arguments.data import IN_MEMORY
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.parser import read_yaml, words_of_option
from hf_biasensemble.data.loading import splits_in_memory
from hf_biasensemble.folders.output_folder import results_in
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.backbones import without_bar
from hf_biasensemble.runs.auditing import AuditArguments, AuditDataArguments, audit_images
from hf_biasensemble.runs.finished import Estimates, Run
from hf_biasensemble.runs.judging import JudgeArguments, judge_models
from hf_biasensemble.runs.run import run
from hf_biasensemble.runs.run_arguments import asked_method, parse_run

_MODEL_FOLDER = "initial_model"  # in the output folder, for a model that was passed as an object

Data: TypeAlias = str | Path | datasets.Dataset | datasets.DatasetDict
Model: TypeAlias = str | Path | PreTrainedModel | Callable[[], PreTrainedModel]


def fit(
    dataset: Data,
    *,
    model: Model | None = None,
    method: str | Method | None = None,
    recipe: str | Path | None = None,
    output_dir: str | Path | None = None,
    compare_with: str | Path | Run | None = None,
    processing_class: Any = None,
    **options: Any,
) -> Run:
    """Trains a classifier, like `hf-biasensemble train`.

    Args:
        dataset (`Dataset`, `DatasetDict` or `str`): Images with labels: in memory, a folder, or a Hub id.
        model (`str`, `PreTrainedModel` or `Callable`, *optional*): The backbone: its name, a folder, a model to start
            from, or a function that builds one. Defaults to the recipe's.
        method (`str` or `Method`, *optional*): The method. Defaults to the recipe's, else LfF + BiasEnsemble.
        recipe (`str`, *optional*): Name of a recipe, such as `"recommended/photographs"`, or a YAML file.
        output_dir (`str`, *optional*): Folder for the results. Defaults to the recipe's, else to the first of
            `outputs/METHOD`, `outputs/METHOD_2`, ... without results.
        compare_with (`Run` or `str`, *optional*): A finished run on the same data, such as ERM.
        processing_class (*optional*): Image processor of a `PreTrainedModel`.
        options: Any option of `hf-biasensemble train --help-all`: `max_steps=1000`, `freeze_backbone=True`, ...

    Returns:
        `Run`: The finished run.

    Raises:
        `BiasEnsembleError`: With a one-line message, if data and options are invalid or training fails.

    Example:

    ```python
    >>> run = fit(load_dataset("imagefolder", data_dir="photos"), recipe="recommended/photographs")
    >>> print(run.estimates)
    ```
    """
    words = _words_of_run(dataset, model, method, recipe, output_dir, compare_with, options)
    data_args, model_args, selection_args, args = parse_run(words)
    _pass_in_memory(data_args, dataset)
    if model is not None:
        save_initial_model(model, processing_class, args)
    with without_bar():
        run(data_args, model_args, selection_args, args)
    return Run(args.output_dir, data_args)


def audit(
    dataset: Data,
    *,
    model: Model | None = None,
    method: str | Method | None = None,
    recipe: str | Path | None = None,
    output_dir: str | Path | None = None,
    processing_class: Any = None,
    **options: Any,
) -> Run:
    """Finds the training images that contradict the shortcut, like `hf-biasensemble audit`.

    See [`fit`] for the other arguments.

    Args:
        method (`str` or `Method`, *optional*): The method whose members vote.
        output_dir (`str`, *optional*): Folder for the results. Defaults to `outputs/audit`, `outputs/audit_2`, ...
        options: Any option of `hf-biasensemble audit --help-all`.

    Returns:
        `Run`: A run with a `selection` and, in its folder, `audit.html`.

    Raises:
        `BiasEnsembleError`: With a one-line message, if data and options are invalid or training fails.
    """
    folder = output_dir or _free_folder("audit", recipe)
    words = _words_of_run(dataset, model, method, recipe, folder, None, options)
    data_args, model_args, selection_args, args, asked = parse_run(
        words, None, AuditDataArguments, (AuditArguments,), "audit"
    )
    _pass_in_memory(data_args, dataset)
    if model is not None:
        save_initial_model(model, processing_class, args)
    with without_bar():
        audit_images(data_args, model_args, selection_args, args, asked.num_images)
    return Run(args.output_dir, data_args)


def judge(
    dataset: Data,
    model: str | Path | Run | Sequence[str | Path | Run],
    *,
    members: str | Path | Run,
    compare_with: str | Path | Run | None = None,
    **options: Any,
) -> Estimates:
    """Estimates accuracy on images that contradict the shortcut, like `hf-biasensemble judge`.

    Args:
        dataset (`Dataset`, `DatasetDict` or `str`): See [`fit`]. No model may have been trained on these images.
        model (`Run`, `str` or several): Runs, folders or Hub ids of classifiers.
        members (`Run` or `str`): A run with BiasEnsemble, whose members find the images that contradict the shortcut.
        compare_with (`Run` or `str`, *optional*): Another classifier, such as ERM, to compare each with.
        options: Any option of `hf-biasensemble judge --help-all`.

    Returns:
        `Estimates`: `print` shows the table and verdicts.

    Raises:
        `BiasEnsembleError`: With a one-line message, if models, members and data do not match.
    """
    models = model if isinstance(model, (list, tuple)) else [model]
    given = {"model": models, "members": members, "compare_with": compare_with}
    words = _words({**_dataset_option(dataset, options), **given, **options})
    types = [DataArguments, JudgeArguments, InferenceArguments]
    data_args, judge_args, inference = parse_arguments(types, words, command="judge")
    _pass_in_memory(data_args, dataset)
    with without_bar():
        text, values = judge_models(data_args, judge_args, inference)
    return Estimates(values, text)


def _words_of_run(
    dataset: Data,
    model: Model | None,
    method: str | Method | None,
    recipe: str | Path | None,
    output_dir: str | Path | None,
    compare_with: str | Path | Run | None,
    options: dict[str, Any],
) -> list[str]:
    """The equivalent command line."""
    if isinstance(method, Method):
        if method not in METHODS.values():
            METHODS.add(method)
        method = method.name
    named = {"config": recipe, "method": method, "compare_with": compare_with}
    words = _words({**_dataset_option(dataset, options), **named, **options})
    folder = output_dir or _free_folder(asked_method(words).name, recipe)
    words += _words({"output_dir": folder})
    if model is not None:
        words += _words({"backbone": backbone_of(model, Path(folder))})
        if not isinstance(model, (str, Path)) and "pretrained" not in options:
            words += _words({"pretrained": True})
    return words


def _words(options: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        if isinstance(value, (list, tuple)):
            words += words_of_option(name, [_checked(name, one) for one in value])
        elif value is not None:
            words += words_of_option(name, _checked(name, value))
    return words


def _checked(name: str, value: Any) -> Any:
    """The value if a command line can hold it."""
    if isinstance(value, (str, Number, dict)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    hint = "; save it with save_pretrained and name its folder" if hasattr(value, "save_pretrained") else ""
    raise BiasEnsembleError(
        f"{name}: expected text, a number, a path or a run, or a list of these, found {type(value).__name__}{hint}"
    )


def _dataset_option(dataset: Data, options: dict[str, Any]) -> dict[str, Any]:
    """The option that names the dataset; the caller may name one in memory."""
    return {"dataset_name": dataset if isinstance(dataset, (str, Path)) else options.get("dataset_name", IN_MEMORY)}


def _pass_in_memory(data_args: DataArguments, dataset: Data) -> None:
    if not isinstance(dataset, (str, Path)):
        data_args.in_memory = splits_in_memory(dataset)


def _free_folder(name: str, recipe: str | Path | None) -> str:
    """The output folder in the recipe, or else the first of `outputs/NAME`, `outputs/NAME_2`, ... without results."""
    if recipe is not None and (named := read_yaml(str(recipe)).get("output_dir")):
        return str(named)
    folders = itertools.chain([f"outputs/{name}"], (f"outputs/{name}_{number}" for number in itertools.count(2)))
    return next(folder for folder in folders if not results_in(Path(folder)))


def backbone_of(model: Model, output_dir: Path) -> str:
    """The value of `--backbone` for a model: its name, or the folder where [`save_initial_model`] saves it."""
    return str(model) if isinstance(model, (str, Path)) else str(output_dir / _MODEL_FOLDER)


def save_initial_model(model: Model, processing_class: Any, args: DebiasingArguments) -> None:
    """Saves a model and its image processor, if any, in the output folder, unless that holds a run to keep.

    All processes wait until it can be read. A model given by name is left where it is.
    """
    if isinstance(model, (str, Path)):
        return
    built = model if isinstance(model, PreTrainedModel) else model() if callable(model) else model
    if not isinstance(built, PreTrainedModel):
        raise BiasEnsembleError(
            "model: expected a name, a folder, a PreTrainedModel or a function that builds one, found "
            f"{type(built).__name__}; name a timm model, or save the network with save_pretrained"
        )
    folder = Path(args.output_dir)
    if args.should_save and (args.overwrite_output_dir or not results_in(folder)):
        with without_bar():
            for part in (built, processing_class):
                if part is not None:
                    part.save_pretrained(folder / _MODEL_FOLDER)
    args.distributed_state.wait_for_everyone()
