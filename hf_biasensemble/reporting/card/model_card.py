"""`README.md` of a finished run: what the model is, how well it does and how to use it, with the same numbers for
machines in its metadata. The words are in `model_card.md.jinja`."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_biasensemble.arguments.data import IN_MEMORY
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.model import FEATURES
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.folders.output_folder import (
    CARD_FILE,
    CONFIG_FILE,
    FIGURE_FILES,
    REPOSITORY_PLACEHOLDER,
    RESULTS_FILE,
    without_local_paths,
)
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.reporting.card.markdown import as_code, as_text, in_percent, markdown_table
from hf_biasensemble.reporting.run.progress import ORACLE_MARK

_MOST_CLASSES_TO_COUNT = 50
_MEANINGS = {
    "accuracy": ("All", "fraction of all images that are classified correctly"),
    "aligned_accuracy": ("Bias-aligned", "the same on images whose bias attribute is the one typical of their class"),
    "conflicting_accuracy": ("Bias-conflicting", "the same on all other images, where a shortcut misleads"),
    "unbiased_accuracy": (
        "Unbiased",
        "mean over the groups of class and bias label (of class and aligned or not, where only that is known)",
    ),
    "worst_group_accuracy": ("Worst group", "the lowest accuracy of any of these groups"),
    "ac_score": ("AC score", "harmonic mean of bias-aligned and bias-conflicting"),
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
    """Writes `README.md` into the folder of a finished run, with the pictures that are in its `figures/`.

    Every number comes from the files that the run left there: `all_results.json`, `config.yaml`, `trainer_state.json`.

    Args:
        output_dir: Folder of the run.
        method: How it was trained.
        splits: `train` and the evaluated splits, which are counted.
        num_processes: Processes that trained; the batch size is per process.
        hub_id: Repository that the model is meant for, for the examples.
    """
    folder = Path(output_dir)
    results, config, state = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (RESULTS_FILE, "config.json", "trainer_state.json")
    )
    local_settings = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    chosen_by_folds = results.get("candidates", {})
    settings = without_local_paths(local_settings) | chosen_by_folds.get("options", {})
    dataset = Path(local_settings["dataset_name"]).expanduser()
    was_in_memory = local_settings["dataset_name"] == IN_MEMORY
    # It could be opened, and no folder has that name.
    dataset_is_on_hub = not dataset.exists() and not was_in_memory
    dataset_name = local_settings["dataset_name"] if dataset_is_on_hub else dataset.resolve().name
    name = (hub_id or str(folder.resolve())).split("/")[-1]
    is_on_hub = "/" in (hub_id or "")  # a name without its owner is not enough to load from
    is_timm = config["model_type"] == "timm_wrapper"
    head = config["backbone_args"] if config.get("backbone") == FEATURES else {}
    task = "tabular-classification" if head else "image-classification"
    known = [metric for metric in METRICS if any(f"{split}_{metric}" in results for split in splits)]
    choice = results.get("checkpoint_choice", "last")
    descriptions = [method.selector.about if method.selector else "", method.about]
    variables = {
        "title": as_text(name),
        "method": method,
        "about": [text.format_map(settings) for text in descriptions if text],
        "citations": list(dict.fromkeys([*(method.selector.citations if method.selector else ()), *method.citations])),
        "class_names": [as_text(class_name) for class_name in splits["train"].class_names],
        "splits": list(splits),
        "settings": settings,
        "results": results,
        "backbone": as_code(settings["backbone"]),
        "is_timm": is_timm,
        "needs_code": "auto_map" in config,
        "head": head,
        "encoders": ["encoder", "bias_encoder"][: config.get("num_encoders", 1)],
        "repository": hub_id if is_on_hub else REPOSITORY_PLACEHOLDER,
        "is_on_hub": is_on_hub,
        "oracle_mark": ORACLE_MARK if choice == "oracle_test" else "",
        "choice": _CHOICES[choice],
        "last_step": state["global_step"],
        "accuracy_rows": _accuracy_rows(
            results,
            splits,
            known,
            [("the classifier before repair", results.get("before", {})), _compared_with(local_settings)],
        ),
        "meanings": [_MEANINGS[metric] for metric in known],
        "figures": {Path(name).stem: name for name in FIGURE_FILES if (folder / name).is_file()},
        "dataset": f"[{dataset_name}](https://huggingface.co/datasets/{dataset_name})"
        if dataset_is_on_hub
        else "A dataset in memory"
        if was_in_memory
        else f"A local folder, {as_code(dataset_name)}",
        **_counts(splits),
        "train": splits["train"],
        "command": _command("" if dataset_is_on_hub else dataset_name, num_processes, results),
        "candidate_rows": _candidate_rows(chosen_by_folds),
        "estimate_rows": _estimate_rows(results),
        "as_text": as_text,
        "table": markdown_table,
    }
    mark = f" ({ORACLE_MARK})" if choice == "oracle_test" else ""
    metadata = ModelCardData(
        library_name="pytorch" if head else "transformers",
        pipeline_tag=task,
        tags=["debiasing", "spurious-correlation", "hf_biasensemble", method.name, *(["timm"] if is_timm else [])],
        datasets=[dataset_name] if dataset_is_on_hub else None,
        base_model=_base_model(local_settings),
        metrics=known or None,
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
                metric_name=f"{_MEANINGS[metric][0]}{mark}",
                metric_value=results[f"{split}_{metric}"],
            )
            for split in splits
            for metric in known
            if f"{split}_{metric}" in results
        ]
        or None,
    )
    card = ModelCard.from_template(metadata, str(Path(__file__).with_name("model_card.md.jinja")), **variables)
    with written_whole(folder / CARD_FILE) as file:
        file.write_text(f"{card}\n", encoding="utf-8")
    return folder / CARD_FILE


def _accuracy_rows(
    results: Mapping[str, Any],
    splits: Mapping[str, ImageSplit],
    known: list[str],
    others: Sequence[tuple[str, Mapping[str, Any]]],
) -> list[list[str]] | None:
    rows = [["split", *(_MEANINGS[metric][0] for metric in known)]]
    shown = [(results, "", ""), (results, "last_step_", ", last step for comparison")]
    shown += [(other, "", f", {name}") for name, other in others]
    for source, prefix, name in shown:
        for split in splits:
            values = [source.get(f"{prefix}{split}_{metric}") for metric in known]
            intervals = {} if prefix else source.get(f"{split}_intervals", {})
            cells = [_accuracy(value, intervals.get(metric)) for metric, value in zip(known, values, strict=True)]
            if any(value is not None for value in values):
                rows.append([f"{split}{name}", *cells])
    return rows if len(rows) > 1 else None


def _accuracy(value: float | None, interval: Sequence[float] | None) -> str:
    """Percent, with both ends of the interval and the number of images where they are known."""
    if value is None:
        return "–"
    if interval is None:
        return f"{100 * value:.1f}"
    low, high, images = interval
    return in_percent(value, low, high, f"; n = {images:,}")


def _estimate_rows(results: Mapping[str, Any]) -> list[list[str]] | None:
    """What members of BiasEnsemble let one estimate on the validation split, apart from what was measured there."""
    intervals = results.get("validation_estimated_intervals")
    if not intervals:
        return None
    names = {"aligned": "bias-aligned", "conflicting": "bias-conflicting", "unbiased": "unbiased"}
    keys = {group: f"estimated_{group}_accuracy" for group in names}
    cells = [_accuracy(results[f"validation_{key}"], intervals[key]) for key in keys.values()]
    return [["estimated", *names.values()], ["validation", *cells]]


def _base_model(settings: Mapping[str, Any]) -> str | None:
    """Hub id of the model whose weights the backbone starts from, if it has one."""
    backbone = settings["backbone"].removeprefix("hf-hub:")
    if not settings["pretrained"] or Path(backbone).expanduser().exists():
        return None
    if "/" in backbone:
        return backbone if re.fullmatch(r"[\w.-]+/[\w.-]+", backbone) else None  # and no folder that is gone
    known = timm.models.get_pretrained_cfg(backbone)
    return known.hf_hub_id if known else None


def _compared_with(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and results of the run named by `compare_with`, if it is finished and saw the same images."""
    folder = Path(settings["compare_with"] or "")
    if not settings["compare_with"] or not (folder / RESULTS_FILE).exists():
        return "", {}
    theirs = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if theirs["train_fingerprint"] != settings["train_fingerprint"]:
        return "", {}
    results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return f"`{theirs['method']}` on the same data for comparison", results


def _counts(splits: Mapping[str, ImageSplit]) -> dict[str, Any]:
    """Rows of the tables of images by split and by class, and the percentage of conflicting training images."""
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
    """What reproduces the model: with several processes, what starts as many on such a device."""
    launcher = "python"
    if num_processes > 1:
        on_processors = results.get("environment", {}).get("device") == "processors"
        launcher = f"accelerate launch --multi_gpu --num_processes {num_processes}"
        launcher = f"torchrun --nproc_per_node {num_processes}" if on_processors else launcher
    data = f" --dataset_name {shlex.quote('path/to/' + local_dataset)}" if local_dataset else ""
    return f"{launcher} train.py --config config.yaml{data} --output_dir outputs/again"


def _candidate_rows(choice: Mapping[str, Any]) -> list[list[str]]:
    """Table of the candidates that a run chose from; empty where it judged none."""
    if not choice.get("candidates"):
        return []
    rows = [["candidate", f"right on the {choice['hardest']} images that rank", "right on all", "points lost", ""]]
    for candidate in choice["candidates"]:
        ranks = in_percent(candidate["on_hardest"], *candidate["interval"])
        shares = [f"{100 * candidate[key]:.1f}" for key in ("accuracy", "costs")]
        mark = "" if candidate["is_allowed"] else "costs too much"
        rows.append(
            [
                as_code(candidate["name"]),
                ranks,
                *shares,
                "**chosen**" if candidate["name"] == choice["chosen"] else mark,
            ]
        )
    return rows
