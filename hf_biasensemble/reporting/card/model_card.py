"""`README.md` of a finished run: what the model is, how well it does and how to use it, with the same numbers for
machines in its metadata. The words are in `model_card.md.jinja`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import timm
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.arguments.model import DEFAULT_PREPROCESSING
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.folders.output_folder import (
    CARD_FILE,
    CONFIG_FILE,
    FIGURE_FILES,
    REPOSITORY_PLACEHOLDER,
    RESULTS_FILE,
)
from hf_biasensemble.internal import shipped
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.reporting.card.markdown import as_code, as_text
from hf_biasensemble.reporting.run.progress import ORACLE_MARK

_MOST_CLASSES_TO_COUNT = 50
_MEANINGS = {
    "accuracy": ("All", "share of all images that are classified correctly"),
    "aligned_accuracy": (
        "Bias-aligned",
        "the same among images whose bias attribute is the one that goes with the class",
    ),
    "conflicting_accuracy": ("Bias-conflicting", "the same among all others, where a shortcut misleads"),
    "unbiased_accuracy": (
        "Unbiased",
        "mean over the groups of class and bias label (of class and aligned or not, where only that is known)",
    ),
    "worst_group_accuracy": ("Worst group", "the lowest of these groups"),
    "ac_score": ("AC score", "harmonic mean of bias-aligned and bias-conflicting"),
}
_CHOICES = {
    "last": "the last one",
    "validation_accuracy": "the evaluated step with the highest validation accuracy",
    "validation_ac_score": "the evaluated step with the highest AC score on the validation split",
    "estimated": "the evaluated step with the best estimate without bias labels, over neighbouring evaluations",
    "oracle_test": f"**{ORACLE_MARK}**",
}
_OF_NO_RECIPE = ("seed", "init_from")
_HOUSEKEEPING = {
    *(field.name for field in fields(DataArguments)),
    *("method_file", "license", "resume_from_checkpoint", "schedule_steps"),
    *("output_dir", "overwrite_output_dir", "selection_dir", "judge", "compare_with", "use_cpu", "report_to"),
    *("per_device_eval_batch_size", "dataloader_pin_memory", "remove_unused_columns", "logging_nan_inf_filter"),
    *("eval_strategy", "save_strategy", "save_steps", "save_total_limit", "logging_steps", "audit", "pixels_on"),
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
        output_dir (`str` or `Path`): Folder of the run.
        method (`Method`): How it was trained.
        splits (`Mapping[str, ImageSplit]`): The data of the run: `train` and the evaluated splits. They are counted.
        num_processes (`int`, *optional*, defaults to 1): Processes that trained; the batch size is per process.
        hub_id (`str`, *optional*): Repository that the model is meant for, for the examples.

    Returns:
        `Path`: The card.
    """
    folder = Path(output_dir)
    results, config, state = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (RESULTS_FILE, "config.json", "trainer_state.json")
    )
    settings = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    name = (hub_id or str(folder.resolve())).split("/")[-1]
    is_on_hub = "/" in (hub_id or "")  # a name without its owner is not enough to load from
    is_timm = "auto_map" not in config
    known = [metric for metric in METRICS if any(f"{split}_{metric}" in results for split in splits)]
    choice = results.get("checkpoint_choice", "last")
    cited = [*(method.selector.citations if method.selector else ()), *method.citations]
    told = [*([method.selector.about] if method.selector else []), method.about]
    variables = {
        "title": as_text(name),
        "method": method,
        "about": [text.format_map(settings) for text in told if text],
        "citations": list(dict.fromkeys(cited)),
        "reading": [as_text(line) for line in (settings.get("reading") or [])[1:]],
        "class_names": [as_text(class_name) for class_name in splits["train"].class_names],
        "splits": list(splits),
        "settings": settings,
        "is_timm": is_timm,
        "repository": hub_id if is_on_hub else REPOSITORY_PLACEHOLDER,
        "is_on_hub": is_on_hub,
        "is_oracle": choice == "oracle_test",
        "oracle_mark": ORACLE_MARK,
        "choice": _CHOICES[choice],
        "published_step": results.get("published_step", state["global_step"]),
        "last_step": state["global_step"],
        "accuracy_rows": _accuracy_rows(results, splits, known, _compared_with(settings)),
        "meanings": [_MEANINGS[metric] for metric in known],
        "bias_is_measured": len(known) > 1,
        "figures": {Path(name).stem: name for name in FIGURE_FILES if (folder / name).is_file()},
        "dataset": as_code(_dataset(settings)),
        "dataset_id": _dataset(settings),
        "dataset_is_on_hub": _is_on_hub(settings),
        "dataset_config": settings["dataset_config_name"],
        "marked": _marked(splits["train"]),
        **_counts(splits),
        "selection": _selection(results, len(splits["train"])),
        **_settings_and_recipe(settings, method, num_processes),
        "command": _command(settings, num_processes, results),
        "has_intervals": any(f"{split}_intervals" in results for split in splits),
        "worst_groups": _worst_groups(results, splits),
        "judgement": as_text(results.get("validation_judgement", "")),
        "estimate_rows": _estimate_rows(results),
        "judged_images": f"{results.get('validation_judged_by', {}).get('images', 0):,}",
        "made_on": _made_on(results),
    }
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["debiasing", "spurious-correlation", "hf_biasensemble", method.name, *(["timm"] if is_timm else [])],
        datasets=[_dataset(settings)] if _is_on_hub(settings) else None,
        base_model=_base_model(settings),
        metrics=known or None,
        license=settings.get("license"),
        model_name=name,
        eval_results=_evaluations(results, settings, splits, known) or None,
    )
    card = ModelCard.from_template(metadata, str(Path(__file__).with_name("model_card.md.jinja")), **variables)
    with written_whole(folder / CARD_FILE) as file:
        file.write_text(f"{card}\n", encoding="utf-8")
    return folder / CARD_FILE


def _evaluations(
    results: Mapping[str, Any], settings: Mapping[str, Any], splits: Mapping[str, ImageSplit], known: list[str]
) -> list[EvalResult]:
    """One per metric and split, so that `{dataset_split}_{metric_type}` is the key in `all_results.json`."""
    mark = f" ({ORACLE_MARK})" if results.get("checkpoint_choice") == "oracle_test" else ""
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=_dataset(settings),
            dataset_name=_dataset(settings).split("/")[-1],
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


def _accuracy_rows(
    results: Mapping[str, Any], splits: Mapping[str, ImageSplit], known: list[str], other: Mapping[str, Any]
) -> list[list[str]] | None:
    rows = [["split", *(_MEANINGS[metric][0] for metric in known)]]
    shown = [(results, "", ""), (results, "last_step_", ", last step for comparison")]
    if other:
        shown.append((other, "", f", `{other['method']}` on the same data for comparison"))
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
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f}; n = {images:,})"


def _worst_groups(results: Mapping[str, Any], splits: Mapping[str, ImageSplit]) -> list[str]:
    """A sentence for each split that has groups: which of them is the worst."""
    sentences = []
    for split in splits:
        found = results.get(f"{split}_worst_group")
        if found:
            group = f"class {as_text(found['class'])}, bias {as_text(found['bias'])}"
            sentences.append(f"The worst group of {split}: {group}, {found['images']:,} images.")
    return sentences


def _estimate_rows(results: Mapping[str, Any]) -> list[list[str]] | None:
    """What members of BiasEnsemble let one estimate on the validation split, apart from what was measured there."""
    intervals = results.get("validation_estimated_intervals")
    if not intervals:
        return None
    names = {"aligned": "bias-aligned", "conflicting": "bias-conflicting", "unbiased": "unbiased"}
    keys = {group: f"estimated_{group}_accuracy" for group in names}
    cells = [_accuracy(results[f"validation_{key}"], intervals[key]) for key in keys.values()]
    return [["estimated", *names.values()], ["validation", *cells]]


def _made_on(results: Mapping[str, Any]) -> str:
    """Device, time and versions, in a sentence."""
    if "environment" not in results:
        return ""
    environment = dict(results["environment"])
    device = environment.pop("device")
    seconds = results["train_runtime"] + results.get("selection_runtime", 0)
    versions = ", ".join(f"{name} {version}" for name, version in environment.items())
    return f"Trained on {device} in {seconds:,.0f} seconds, the selection included, with {versions}."


def _compared_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Results and method of the run named by `compare_with`, if it is finished and saw the same images."""
    folder = Path(settings["compare_with"] or "")
    if not settings["compare_with"] or not (folder / RESULTS_FILE).exists():
        return {}
    theirs = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if theirs["train_fingerprint"] != settings["train_fingerprint"]:
        return {}
    return {"method": theirs["method"], **json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))}


def _marked(train: ImageSplit) -> str:
    """How many training images marks of an audit left out or relabelled; empty if none."""
    counts = ((train.excluded, "left out"), (train.relabelled, "relabelled"))
    told = [f"{count:,} training image{'s were' if count != 1 else ' was'} {what}" for count, what in counts if count]
    return " and ".join(told)


def _counts(splits: Mapping[str, ImageSplit]) -> dict[str, Any]:
    """Rows of the tables of images by split and by class, and the share of conflicting training images in percent."""
    split_rows = [["split", "images", "bias-aligned", "bias-conflicting"]]
    class_rows = [["class"], *([as_text(name)] for name in splits["train"].class_names)]
    severity, shown = None, len(class_rows) - 1 <= _MOST_CLASSES_TO_COUNT
    for name, split in splits.items():
        labels, bias_labels, is_conflicting = split.measured_by().values()
        header, group = name, np.zeros(len(labels), dtype=np.int64)
        row = [name, f"{len(labels):,}", "unknown", "unknown"]
        if is_conflicting is not None:
            if bias_labels is not None:  # -1 is unknown
                labels, is_conflicting = labels[bias_labels >= 0], is_conflicting[bias_labels >= 0]
            header, group = f"{name}: aligned + conflicting", is_conflicting.astype(np.int64)
            row[2:] = [f"{(~is_conflicting).sum():,}", f"{is_conflicting.sum():,}"]
            severity = f"{100 * is_conflicting.mean():.2f}" if name == "train" else severity
        elif bias_labels is not None:
            header, group = f"{name}: by bias label, from 0 on", bias_labels % len(split.bias_names or [0])
        split_rows.append(row)
        if not shown:  # classes times bias labels
            continue
        class_rows[0].append(header)
        cells = np.zeros(
            (len(split.class_names), max(int(group.max()) + 1, 1 + (is_conflicting is not None))), dtype=int
        )
        np.add.at(cells, (labels, group), 1)
        for row, counts in zip(class_rows[1:], cells.tolist(), strict=True):
            row.append(" + ".join(f"{count:,}" for count in counts))
    if all("unknown" in row for row in split_rows[1:]):
        split_rows = [row[:2] for row in split_rows]
    return {"split_rows": split_rows, "class_rows": class_rows if shown else None, "severity": severity}


def _selection(results: Mapping[str, Any], num_train: int) -> dict[str, Any] | None:
    if "selection_size" not in results:
        return None
    shares = {
        "selection_aligned_recall": "bias-aligned ones (better high)",
        "selection_conflicting_leak": "bias-conflicting ones (better low)",
    }
    return {
        "size": f"{results['selection_size']:,}",
        "of": f"{num_train:,}",
        "shares": [f"{100 * results[key]:.1f} % of the {name}" for key, name in shares.items() if key in results],
    }


def _settings_and_recipe(settings: Mapping[str, Any], method: Method, num_processes: int) -> dict[str, Any]:
    """Rows of the settings that the method uses, and the nearest shipped recipe beside those that differ from it."""
    used = _used_settings(settings, method)
    file, differing = min(_recipes(used, method).items(), key=lambda recipe: len(recipe[1]), default=(None, {}))
    if num_processes > 1:
        used["processes"] = num_processes
    rows = [["setting", "value"], *([f"`{name}`", _value(value)] for name, value in used.items())]
    if differing:
        theirs = ["recipe", *(_value(differing[name]) if name in differing else "" for name in used)]
        rows = [[*row, value] for row, value in zip(rows, theirs, strict=True)]
    return {
        "setting_rows": rows,
        "recipe": file and f"{_kind_of(file)}recipe `configs/{file.parent.name}/{file.name}`",
        "is_recipe": not differing,
    }


def _kind_of(recipe: Path) -> str:
    """Kind of a shipped recipe: those of the authors' commands say in their first line that they are published."""
    if recipe.parent.name == "recommended":
        return "recommended "
    return "published " if "published" in recipe.read_text(encoding="utf-8").splitlines()[0] else ""


def _used_settings(settings: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """The options that the method has, and that do something with the values of the others."""
    skipped = set(_HOUSEKEEPING)
    if not settings["step_decay_steps"]:
        skipped |= {"step_decay_factor", "step_decay_start"}
    if not settings.get("init_from"):
        skipped.add("init_part")
    if not settings.get("freeze_backbone"):
        skipped |= {"freeze_backbone", "feature_views", "head", "head_hidden"}
    if not settings.get("color_jitter"):
        skipped.add("color_jitter")
    known = method.option_names()
    used = {"method": method.name, **settings}
    if used.get("init_from") and Path(used["init_from"]).is_dir():
        used["init_from"] = Path(used["init_from"]).resolve().name  # as with the data, the path is nobody's business
    return {name: value for name, value in used.items() if name in known - skipped and value is not None}


def _recipes(used: Mapping[str, Any], method: Method) -> dict[Path, dict[str, Any]]:
    """The shipped recipes of the method, each with its values of the settings where the run has another.

    What a recipe leaves out has its default there; the seed is nobody's recipe.
    """
    recipes = {}
    for name, file in shipped.recipes().items():
        if not name.startswith((f"{used['method']}/", "recommended/")):
            continue
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        if recipe["method"] == used["method"]:
            theirs = {name: recipe.get(name, default) for name, default in _defaults(method).items() if name in used}
            recipes[file] = {
                name: value for name, value in theirs.items() if value != used[name] and name not in _OF_NO_RECIPE
            }
    return recipes


def _defaults(method: Method) -> dict[str, Any]:
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for arguments in method.argument_types(DataArguments)[1:]
        for field in fields(arguments)
    }
    # What `None` stands for in a network from scratch.
    return {**defaults, **DEFAULT_PREPROCESSING, **({"cross_fit": False} if "cross_fit" in defaults else {})}


def _command(settings: Mapping[str, Any], num_processes: int, results: Mapping[str, Any]) -> str:
    """What makes the model again: with several processes, what starts as many on such a device."""
    launcher = "python"
    if num_processes > 1:
        on_processors = results.get("environment", {}).get("device") == "processors"
        launcher = f"accelerate launch --multi_gpu --num_processes {num_processes}"
        launcher = f"torchrun --nproc_per_node {num_processes}" if on_processors else launcher
    data = "" if _is_on_hub(settings) else f" --dataset_name {shlex.quote('path/to/' + _dataset(settings))}"
    return f"{launcher} train.py --config config.yaml{data} --output_dir outputs/again"


def _is_on_hub(settings: Mapping[str, Any]) -> bool:
    """Whether the data came from the Hub: they could be opened, and no folder has that name."""
    return not Path(settings["dataset_name"]).expanduser().exists()


def _dataset(settings: Mapping[str, Any]) -> str:
    """Hub id, or the name of the local folder; the path to it is nobody's business."""
    name = settings["dataset_name"]
    return name if _is_on_hub(settings) else Path(name).expanduser().resolve().name


def _base_model(settings: Mapping[str, Any]) -> str | None:
    """Hub id of the pretrained weights, where timm knows it."""
    if not settings["pretrained"]:
        return None
    pretrained = timm.models.get_pretrained_cfg(settings["backbone"])
    return pretrained.hf_hub_id if pretrained else None


def _value(value: Any) -> str:
    return as_text(value) if isinstance(value, str) else json.dumps(value).replace("|", "\\|")
