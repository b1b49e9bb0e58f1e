"""The model card of a finished run, with the same numbers in its metadata; the text is in `model_card.md.jinja`."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

import hf_biasensemble
from hf_biasensemble.arguments.data import IN_MEMORY
from hf_biasensemble.arguments.descriptors import Method, Selector
from hf_biasensemble.arguments.model import FEATURES
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.folders.output_folder import (
    CARD_FILE,
    FIGURE_FILES,
    REPOSITORY_PLACEHOLDER,
    RESULTS_FILE,
    settings_in,
    without_local_paths,
)
from hf_biasensemble.internal.files import write_text
from hf_biasensemble.reporting.card.markdown import as_code, as_text, in_percent, markdown_table
from hf_biasensemble.reporting.run.progress import ORACLE_MARK

_MOST_CLASSES_TO_COUNT = 50
_MEANINGS = {
    "accuracy": ("All", "fraction of all images classified correctly"),
    "aligned_accuracy": ("Bias-aligned", "accuracy on images with the bias attribute that is typical of their class"),
    "conflicting_accuracy": ("Bias-conflicting", "accuracy on all other images, where a shortcut misleads"),
    "unbiased_accuracy": (
        "Unbiased",
        "mean accuracy over the groups of class and bias label (or of class and bias-aligned or not, if only that is "
        "known)",
    ),
    "worst_group_accuracy": ("Worst group", "lowest accuracy of these groups"),
    "ac_score": ("AC score", "harmonic mean of bias-aligned and bias-conflicting accuracy"),
}
_CHOICES = {
    "last": "the last one",
    "validation_accuracy": "the one with the highest validation accuracy",
    "validation_ac_score": "the one with the highest AC score on the validation split",
    "estimated": "the one with the best estimate without bias labels, averaged over neighbouring evaluations",
    "oracle_test": f"**{ORACLE_MARK}**",
}


def write_model_card(
    output_dir: str | Path,
    method: Method,
    splits: Mapping[str, ImageSplit],
    num_processes: int = 1,
    hub_id: str | None = None,
) -> Path:
    """Writes `README.md` from the files of a finished run and the `splits` it used: `train` and the evaluated ones.

    `num_processes` is how many trained, `hub_id` the repository that the examples name.
    """
    folder = Path(output_dir)
    results, config, state = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (RESULTS_FILE, "config.json", "trainer_state.json")
    )
    local_settings = settings_in(folder)
    candidates = results.get("candidates", {})
    settings = without_local_paths(local_settings) | candidates.get("options", {})
    dataset = Path(local_settings["dataset_name"]).expanduser()
    was_in_memory = local_settings["dataset_name"] == IN_MEMORY
    # It was loaded, so it is on the Hub unless a folder has that name.
    is_hub_dataset = not dataset.exists() and not was_in_memory
    if is_hub_dataset:
        dataset_name = local_settings["dataset_name"]
        dataset_text = f"[{dataset_name}](https://huggingface.co/datasets/{dataset_name})"
    else:
        dataset_name = dataset.resolve().name
        dataset_text = "A dataset in memory" if was_in_memory else f"A local folder, {as_code(dataset_name)}"
    name = (hub_id or str(folder.resolve())).split("/")[-1]
    is_on_hub = "/" in (hub_id or "")  # a name without its owner cannot be loaded
    is_timm = config["model_type"] == "timm_wrapper"
    head = config["backbone_args"] if config.get("backbone") == FEATURES else {}
    task = "tabular-classification" if head else "image-classification"
    metrics = [metric for metric in METRICS if any(f"{split}_{metric}" in results for split in splits)]
    choice = results.get("checkpoint_choice", "last")
    oracle_mark = ORACLE_MARK if choice == "oracle_test" else ""
    recipes: list[Method | Selector] = [method.selector, method] if method.selector else [method]
    variables = {
        "title": as_text(name),
        "method": method,
        "about": [recipe.about.format_map(settings) for recipe in recipes if recipe.about],
        "citations": list(dict.fromkeys(citation for recipe in recipes for citation in recipe.citations)),
        "class_names": [as_text(class_name) for class_name in splits["train"].class_names],
        "splits": splits,
        "settings": settings,
        "results": results,
        "backbone": as_code(settings["backbone"]),
        "is_timm": is_timm,
        "needs_code": "auto_map" in config,
        "head": head,
        "encoders": ["encoder", "bias_encoder"][: config.get("num_encoders", 1)],
        "repository": hub_id if is_on_hub else REPOSITORY_PLACEHOLDER,
        "is_on_hub": is_on_hub,
        "oracle_mark": oracle_mark,
        "choice": _CHOICES[choice],
        "last_step": state["global_step"],
        "accuracy_rows": _accuracy_rows(results, splits, metrics, _compared_with(local_settings)),
        "meanings": [_MEANINGS[metric] for metric in metrics],
        "figures": {Path(file).stem: file for file in FIGURE_FILES if (folder / file).is_file()},
        "dataset": dataset_text,
        **_counts(splits),
        "command": _command("" if is_hub_dataset else dataset_name, num_processes, results),
        "candidate_rows": _candidate_rows(candidates),
        "estimate_rows": _estimate_rows(results),
        "as_text": as_text,
        "table": markdown_table,
    }
    metadata = ModelCardData(
        library_name="pytorch" if head else "transformers",
        pipeline_tag=task,
        tags=["debiasing", "spurious-correlation", "hf_biasensemble", method.name, *(["timm"] if is_timm else [])],
        datasets=[dataset_name] if is_hub_dataset else None,
        base_model=_base_model(local_settings),
        metrics=metrics or None,
        license=settings.get("license"),
        model_name=name,
        # One per metric and split, so that `{dataset_split}_{metric_type}` is the key in `all_results.json`.
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=dataset_name,
                dataset_name=dataset_name.split("/")[-1],
                dataset_config=settings["dataset_config_name"],
                dataset_split=split,
                metric_type=metric,
                metric_name=f"{_MEANINGS[metric][0]} ({oracle_mark})" if oracle_mark else _MEANINGS[metric][0],
                metric_value=results[f"{split}_{metric}"],
            )
            for split in splits
            for metric in metrics
            if f"{split}_{metric}" in results
        ]
        or None,
    )
    card = ModelCard.from_template(metadata, str(Path(__file__).with_name("model_card.md.jinja")), **variables)
    write_text(folder / CARD_FILE, f"{card}\n")
    return folder / CARD_FILE


def _accuracy_rows(
    results: Mapping[str, Any],
    splits: Mapping[str, ImageSplit],
    metrics: list[str],
    compared_with: tuple[str, Mapping[str, Any]],
) -> list[list[str]]:
    rows = [["split", *(_MEANINGS[metric][0] for metric in metrics)]]
    for note, source, prefix in (
        ("", results, ""),
        (", last step for comparison", results, "last_step_"),
        (", the classifier before repair", results.get("before", {}), ""),
        (*compared_with, ""),
    ):
        for split in splits:
            values = [source.get(f"{prefix}{split}_{metric}") for metric in metrics]
            intervals = {} if prefix else source.get(f"{split}_intervals", {})
            cells = [_accuracy(value, intervals.get(metric)) for metric, value in zip(metrics, values, strict=True)]
            if any(value is not None for value in values):
                rows.append([f"{split}{note}", *cells])
    return rows


def _accuracy(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    if interval is None:
        return f"{100 * value:.1f}"
    low, high, images = interval
    return in_percent(value, low, high, f"; n = {images:,}")


def _estimate_rows(results: Mapping[str, Any]) -> list[list[str]] | None:
    """The accuracy estimated without bias labels, in a table of its own because it was not measured."""
    intervals = results.get("validation_estimated_intervals")
    if not intervals:
        return None
    groups = ("aligned", "conflicting", "unbiased")
    keys = [f"estimated_{group}_accuracy" for group in groups]
    cells = [_accuracy(results[f"validation_{key}"], intervals[key]) for key in keys]
    return [["estimated", "bias-aligned", "bias-conflicting", "unbiased"], ["validation", *cells]]


def _base_model(settings: Mapping[str, Any]) -> str | None:
    """Hub id of the backbone's pretrained weights, if they have one."""
    backbone = settings["backbone"].removeprefix("hf-hub:")
    if not settings["pretrained"] or Path(backbone).expanduser().exists():
        return None
    if "/" in backbone:
        return backbone if re.fullmatch(r"[\w.-]+/[\w.-]+", backbone) else None  # else a deleted folder
    known = timm.models.get_pretrained_cfg(backbone)
    return known.hf_hub_id if known else None


def _compared_with(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Note and results of the run named by `compare_with`, if it is finished and trained on the same images."""
    folder = Path(settings["compare_with"] or "")
    if not settings["compare_with"] or not (folder / RESULTS_FILE).exists():
        return "", {}
    theirs = settings_in(folder)
    if theirs["train_fingerprint"] != settings["train_fingerprint"]:
        return "", {}
    results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return f", `{theirs['method']}` on the same data for comparison", results


def _counts(splits: Mapping[str, ImageSplit]) -> dict[str, Any]:
    """Tables of the images by split and by class, and the percentage of bias-conflicting training images."""
    names = splits["train"].class_names
    split_rows, columns = [["split", "images", "bias-aligned", "bias-conflicting"]], [["class", *map(as_text, names)]]
    percentage = None
    for name, split in splits.items():
        measured = split.measured_by()
        labels, conflicting = measured["labels"], measured["is_conflicting"]
        if conflicting is not None and measured["bias_labels"] is not None:
            known = measured["bias_labels"] >= 0
            labels, conflicting = labels[known], conflicting[known]
        groups = [labels] if conflicting is None else [labels[~conflicting], labels[conflicting]]
        sizes = ["unknown"] * 2 if conflicting is None else [f"{len(group):,}" for group in groups]
        split_rows.append([name, f"{len(split.rows):,}", *sizes])
        if name == "train" and conflicting is not None:
            percentage = f"{100 * conflicting.mean():.2f}"
        if len(names) <= _MOST_CLASSES_TO_COUNT:
            counts = zip(*(np.bincount(group, minlength=len(names)).tolist() for group in groups), strict=True)
            header = name if conflicting is None else f"{name}: aligned + conflicting"
            columns.append([header, *(" + ".join(f"{count:,}" for count in cell) for cell in counts)])
    if all("unknown" in row for row in split_rows[1:]):
        split_rows = [row[:2] for row in split_rows]
    class_rows = list(zip(*columns, strict=True)) if len(columns) > 1 else None
    return {"split_rows": split_rows, "class_rows": class_rows, "conflicting_percentage": percentage}


def _command(local_dataset: str, num_processes: int, results: Mapping[str, Any]) -> str:
    """The command that reproduces the model, with a launcher for several processes on the same kind of device."""
    launcher = "python"
    if num_processes > 1 and results.get("environment", {}).get("device") == "processors":
        launcher = f"torchrun --nproc_per_node {num_processes}"
    elif num_processes > 1:
        launcher = f"accelerate launch --multi_gpu --num_processes {num_processes}"
    data = f" --dataset_name {shlex.quote('path/to/' + local_dataset)}" if local_dataset else ""
    return f"{launcher} train.py --config config.yaml{data} --output_dir outputs/again"


def _candidate_rows(choice: Mapping[str, Any]) -> list[list[str]]:
    """Table of the candidates that a run chose from; empty if it judged none."""
    if not choice.get("candidates"):
        return []
    rows = [["candidate", f"accuracy on the {choice['hardest']} hardest images", "accuracy", "points lost", ""]]
    for candidate in choice["candidates"]:
        mark = "" if candidate["is_allowed"] else "costs too much"
        rows.append(
            [
                as_code(candidate["name"]),
                in_percent(candidate["on_hardest"], *candidate["interval"]),
                f"{100 * candidate['accuracy']:.1f}",
                f"{100 * candidate['costs']:.1f}",
                "**chosen**" if candidate["name"] == choice["chosen"] else mark,
            ]
        )
    return rows


def environment_of(device: torch.device) -> dict[str, str]:
    """`device` (the name of the GPU, or `"processors"`) and the versions of the libraries that results depend on."""
    names = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: "processors"}
    return {
        "device": names.get(device.type, str)(device),
        **{module.__name__: module.__version__ for module in (hf_biasensemble, torch, transformers, datasets, timm)},
    }
