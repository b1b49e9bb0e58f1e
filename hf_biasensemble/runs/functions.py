"""`fit`, `audit` and `judge`: the commands of the same names for Python, with keywords in place of options.

The keywords become the words of a command line, so that the same parser checks them, and the same code runs.
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

GIVEN_MODEL = "initial_model"
"""Folder in an output folder where a model is kept that Python handed in."""

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
    """Trains a classifier as `hf-biasensemble train` does, by the same code.

    Args:
        dataset (`Dataset`, `DatasetDict` or `str`): Images with labels: in memory, a folder, or a Hub id.
        model (`str`, `PreTrainedModel` or `Callable`, *optional*): The backbone: its name, a folder, a model to start
            from, or a function that builds one. By default that of the recipe.
        method (`str` or `Method`, *optional*): The method; by default that of the recipe, else LfF + BiasEnsemble.
        recipe (`str`, *optional*): Name of a recipe, such as `"recommended/photographs"`, or a YAML file.
        output_dir (`str`, *optional*): Folder for the results; by default the first of `outputs/METHOD`,
            `outputs/METHOD_2`, ... that has none.
        compare_with (`Run` or `str`, *optional*): A finished run on the same data, such as ERM.
        processing_class (*optional*): Image processor of a `PreTrainedModel`.
        options: Any option of `hf-biasensemble train --help-all`: `max_steps=1000`, `freeze_backbone=True`, ...

    Returns:
        `Run`: The finished run.

    Raises:
        `BiasEnsembleError`: In one line, where the command would end with one.

    Example:

    ```python
    >>> run = fit(load_dataset("imagefolder", data_dir="photos"), recipe="recommended/photographs")
    >>> print(run.estimates)
    ```
    """
    words = _words_of_run(dataset, model, method, recipe, output_dir, compare_with, options)
    data_args, model_args, selection_args, args = parse_run(words)
    _hand_in(data_args, dataset)
    if model is not None:
        keep_model(model, processing_class, args)
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
    """Finds the training images that contradict the shortcut, as `hf-biasensemble audit` does.

    Args:
        dataset (`Dataset`, `DatasetDict` or `str`): As of [`fit`], like all that follow.
        model (`str`, `PreTrainedModel` or `Callable`, *optional*): The backbone.
        method (`str` or `Method`, *optional*): The method whose members vote.
        recipe (`str`, *optional*): Name of a recipe or a YAML file.
        processing_class (*optional*): Image processor of a `PreTrainedModel`.
        output_dir (`str`, *optional*): Folder for the results; by default `outputs/audit`, `outputs/audit_2`, ...
        options: Any option of `hf-biasensemble audit --help-all`.

    Returns:
        `Run`: With a `selection`; `audit.html` is in its folder.

    Raises:
        `BiasEnsembleError`: In one line, where the command would end with one.
    """
    folder = output_dir or _free_folder("audit", recipe)
    words = _words_of_run(dataset, model, method, recipe, folder, None, options)
    data_args, model_args, selection_args, args, asked = parse_run(
        words, None, AuditDataArguments, (AuditArguments,), "audit"
    )
    _hand_in(data_args, dataset)
    if model is not None:
        keep_model(model, processing_class, args)
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
    """How good classifiers are on images that contradict the shortcut, as `hf-biasensemble judge` says.

    Args:
        dataset (`Dataset`, `DatasetDict` or `str`): As of [`fit`], with images that no model was trained on.
        model (`Run`, `str` or several): Runs, folders or Hub ids of classifiers.
        members (`Run` or `str`): A run with BiasEnsemble, whose members say which images contradict the shortcut.
        compare_with (`Run` or `str`, *optional*): Another classifier, such as ERM, to compare each with.
        options: Any option of `hf-biasensemble judge --help-all`.

    Returns:
        `Estimates`: `print` shows the table and verdicts.

    Raises:
        `BiasEnsembleError`: In one line, where the command would end with one.
    """
    models = model if isinstance(model, (list, tuple)) else [model]
    given = {"model": models, "members": members, "compare_with": compare_with}
    words = _words({**_name_of(dataset, options), **given, **options})
    types = [DataArguments, JudgeArguments, InferenceArguments]
    data_args, judge_args, inference = parse_arguments(types, words, command="judge")
    _hand_in(data_args, dataset)
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
    """The command line that means the same."""
    if isinstance(method, Method):
        if method not in METHODS.values():
            METHODS.add(method)
        method = method.name
    named = {"config": recipe, "method": method, "compare_with": compare_with}
    words = _words({**_name_of(dataset, options), **named, **options})
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
            words += words_of_option(name, [_plain(name, one) for one in value])
        elif value is not None:
            words += words_of_option(name, _plain(name, value))
    return words


def _plain(name: str, value: Any) -> Any:
    """What a word of a command line can be made of."""
    if isinstance(value, (str, Number, dict)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    hint = "; save it with save_pretrained and name its folder" if hasattr(value, "save_pretrained") else ""
    raise BiasEnsembleError(
        f"{name}: expected text, a number, a path or a run, or a list of these, found {type(value).__name__}{hint}"
    )


def _name_of(dataset: Data, options: dict[str, Any]) -> dict[str, Any]:
    """The option that names the data; data in memory may have been given a name."""
    return {"dataset_name": dataset if isinstance(dataset, (str, Path)) else options.get("dataset_name", IN_MEMORY)}


def _hand_in(data_args: DataArguments, dataset: Data) -> None:
    if not isinstance(dataset, (str, Path)):
        data_args.in_memory = splits_in_memory(dataset)


def _free_folder(name: str, recipe: str | Path | None) -> str:
    """The output folder that the recipe names, or else the first of that name without results."""
    if recipe is not None and (named := read_yaml(str(recipe)).get("output_dir")):
        return str(named)
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(folder for one in names if not results_in(Path(folder := f"outputs/{one}")))


def backbone_of(model: Model, output_dir: Path) -> str:
    """The backbone that a model means, as `--backbone` names it: its name, or where [`keep_model`] keeps it."""
    return str(model) if isinstance(model, (str, Path)) else str(output_dir / GIVEN_MODEL)


def keep_model(model: Model, processing_class: Any, args: DebiasingArguments) -> None:
    """Writes a model in memory into the output folder, unless that holds a run, and waits until all can read it.

    Args:
        model (`str`, `Path`, `PreTrainedModel` or `Callable`): One that has a name is left where it is.
        processing_class: Image processor that belongs to the model, or `None`.
        args (`DebiasingArguments`): Names the folder, and says whether a run in it is to be replaced.

    Raises:
        `BiasEnsembleError`: If it is none of these.
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
                    part.save_pretrained(folder / GIVEN_MODEL)
    args.distributed_state.wait_for_everyone()
