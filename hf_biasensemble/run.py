"""One whole run: data -> selection -> debiasing -> published model and results. Data flows one way."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments, SelectionArguments, resolved
from hf_biasensemble.data.pixels import ImageSplit, write_unreadable
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.data.transforms import ImageTransform
from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.files import written_whole
from hf_biasensemble.models.build import build_members, build_trainable
from hf_biasensemble.models.export import save_classifier
from hf_biasensemble.reporting.history import HistoryCallback
from hf_biasensemble.reporting.progress import NamedProgressCallback, results_table
from hf_biasensemble.selection import FILE_NAME, Selection
from hf_biasensemble.trainers.base import DebiasingTrainer
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer
from hf_biasensemble.trainers.disent import DisentTrainer
from hf_biasensemble.trainers.erm import ErmTrainer
from hf_biasensemble.trainers.lff import LffTrainer

TRAINERS: dict[str, type[DebiasingTrainer]] = {
    "erm": ErmTrainer,
    "lff": LffTrainer,
    "disent": DisentTrainer,
    "lff_be": LffTrainer,
    "disent_be": DisentTrainer,
}
CONFIG_FILE = "config.yaml"
RESULTS_FILE = "all_results.json"
DROPPED_FILE = "dropped_images.csv"
_RUN_FILES = (RESULTS_FILE, "history.csv", "trainer_state.json", "config.json", "model.safetensors", "selection")
# Alone, these are worth no refusal.
_FURTHER_FILES = (CONFIG_FILE, DROPPED_FILE, "preprocessor_config.json", "modeling_debiased.py")


def run(
    data_args: DataArguments, model_args: ModelArguments, selection_args: SelectionArguments, args: DebiasingArguments
) -> dict[str, Any]:
    """Trains one method on one data set and writes everything into `args.output_dir`.

    Returns:
        `dict`: The content of `all_results.json`.
    """
    output_dir = Path(args.output_dir)
    checkpoint = checkpoint_to_resume(args)
    earlier_files = check_output_dir(output_dir, args, checkpoint)
    splits = load_image_splits(data_args, model_args.image_size)
    if "train" not in splits:
        raise BiasEnsembleError(f"{data_args.dataset_name}: expected a training split, found {', '.join(splits)}")
    settings = resolved(data_args, model_args, selection_args, args)
    settings["train_fingerprint"] = check_fingerprint(splits["train"], data_args)
    if args.resume_from_checkpoint:
        check_same_run(checkpoint.parent if checkpoint else output_dir, settings)
    if args.should_save:
        for path in earlier_files:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with written_whole(output_dir / CONFIG_FILE) as file:
            file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        write_unreadable(splits, output_dir / DROPPED_FILE)

    transform = image_transform(model_args)
    evaluated: dict[str, ImageSplit] = {name: splits[name] for name in ("validation", "test") if name in splits}
    results: dict[str, Any] = {}
    selection = None
    if args.uses_selection:
        selection, results = make_selection(model_args, selection_args, args, transform, splits)

    class_names = splits["train"].class_names
    model = build_trainable(model_args, class_names, args.method, args.seed)
    extra = {} if args.method == "erm" else {"selection": selection}
    callbacks = [NamedProgressCallback(f"Training {args.method}"), HistoryCallback(output_dir / "history.csv")]
    trainer = TRAINERS[args.method](
        model, args, transform, train_dataset=splits["train"], eval_dataset=evaluated, callbacks=callbacks, **extra
    )
    use_own_progress(trainer)
    trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_finite()
    results |= {key: trained.metrics[key] for key in ("train_runtime", "train_steps_per_second", "train_loss")}
    results |= trainer.last_evaluation()
    if trainer.is_world_process_zero():
        save_classifier(trainer.published_model(), transform, output_dir)
        trainer.save_state()
        with written_whole(output_dir / RESULTS_FILE) as file:
            file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if evaluated:
            print(results_table({args.method: results}))
        print(f"saved to {output_dir}", flush=True)
    return results


def check_fingerprint(train: ImageSplit, data_args: DataArguments) -> str:
    """The fingerprint of the training data, which must be the one asked for, if any."""
    if data_args.train_fingerprint not in (None, train.fingerprint):
        raise BiasEnsembleError(
            f"--train_fingerprint: expected training data {data_args.train_fingerprint}, found {train.fingerprint} in "
            f"{data_args.dataset_name}; use the data of that run, or leave the option out"
        )
    return train.fingerprint


def image_transform(model_args: ModelArguments) -> ImageTransform:
    """`(pixel / 255 / scale - mean) / std`, written as one mean and one standard deviation of pixel / 255."""
    scale = model_args.image_scale
    return ImageTransform(
        image_mean=tuple(scale * value for value in model_args.image_mean),
        image_std=tuple(scale * value for value in model_args.image_std),
        crop_padding=model_args.crop_padding,
        horizontal_flip=model_args.horizontal_flip,
    )


def make_selection(
    model_args: ModelArguments,
    selection_args: SelectionArguments,
    args: DebiasingArguments,
    transform: ImageTransform,
    splits: dict[str, ImageSplit],
) -> tuple[Selection, dict[str, Any]]:
    """The bias-amplified set: the one in `output_dir/selection` if it was made from the same, else a new one.

    Returns:
        The selection, and its summary with `selection_runtime`.
    """
    folder = Path(args.output_dir) / "selection"
    train = splits["train"]
    provenance = {
        "train_fingerprint": train.fingerprint,
        "seed": args.seed,
        "batch_size": args.per_device_train_batch_size * args.world_size,
        "learning_rate": args.learning_rate,
        "generalized_cross_entropy_q": args.generalized_cross_entropy_q,
        **asdict(selection_args),
        **asdict(model_args),
    }
    provenance = json.loads(json.dumps(provenance))
    if (folder / FILE_NAME).exists():
        selection = Selection.load(folder)
        different = selection.differences(provenance)
        if different:
            raise BiasEnsembleError(
                f"{folder / FILE_NAME} was made with other settings: {'; '.join(different)}; remove it or use "
                "another --output_dir"
            )
        return selection, selection.summary()
    if selection_args.keep_member == "best" and "validation" not in splits:
        raise BiasEnsembleError("--keep_member best: expected a validation split to choose by, found none; use last")
    changes: dict[str, Any] = {"output_dir": str(folder), "eval_strategy": "no", "save_strategy": "no"}
    member_args = replace(args, max_steps=selection_args.member_steps, **changes)
    members = build_members(model_args, train.class_names, selection_args.num_members, args.seed)
    trainer = BiasEnsembleTrainer(
        members,
        member_args,
        transform,
        selection_args,
        train_dataset=train,
        eval_dataset={name: split for name, split in splits.items() if name == "validation"},
        callbacks=[NamedProgressCallback("BiasEnsemble members")],
    )
    use_own_progress(trainer)
    trained = trainer.train()
    trainer.check_finite()
    selection = trainer.select(provenance)
    selection.check(train.class_names)
    if trainer.is_world_process_zero():
        selection.save(folder)
    trainer.accelerator.wait_for_everyone()
    return selection, {**selection.summary(), "selection_runtime": trained.metrics["train_runtime"]}


def check_output_dir(output_dir: Path, args: DebiasingArguments, checkpoint: Path | None) -> list[Path]:
    """Refuses to touch the results of another run unless told so; gives the files to remove once all else is well."""
    if output_dir.exists() and not output_dir.is_dir():
        raise BiasEnsembleError(f"--output_dir {output_dir}: expected a folder, found a file")
    resumes_here = args.resume_from_checkpoint and (checkpoint is None or checkpoint.parent == output_dir.resolve())
    if not output_dir.exists() or resumes_here:
        return []
    found = [output_dir / name for name in _RUN_FILES] + sorted(output_dir.glob("checkpoint-*"))
    found = [path for path in found if path.is_file() or (path.is_dir() and any(path.iterdir()))]
    if found and not args.overwrite_output_dir:
        raise BiasEnsembleError(
            f"--output_dir {output_dir} holds another run ({found[0].name}); continue it with "
            "--resume_from_checkpoint true, replace it with --overwrite_output_dir, or name another folder"
        )
    return found + [output_dir / name for name in _FURTHER_FILES if (output_dir / name).is_file()]


def checkpoint_to_resume(args: DebiasingArguments) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means: a folder, or `true` for the newest complete one in
    output_dir. `None` if the run is to start at the beginning, also when an earlier run ended before its first one."""
    asked = str(args.resume_from_checkpoint or "false")
    if asked.lower() == "false":
        args.resume_from_checkpoint = None
        return None
    output_dir = Path(args.output_dir).resolve()
    if asked.lower() != "true":
        checkpoint = Path(asked).expanduser().resolve()
        if not _is_complete(checkpoint):
            raise BiasEnsembleError(
                f"--resume_from_checkpoint {asked}: expected true or the folder of a complete checkpoint, found "
                f"{'an incomplete one' if checkpoint.is_dir() else 'no such folder'}"
            )
        return checkpoint
    if not (output_dir / CONFIG_FILE).exists():
        raise BiasEnsembleError(
            f"--resume_from_checkpoint true: expected a run in {args.output_dir}, found no {CONFIG_FILE} there; "
            "check --output_dir or leave the option out"
        )
    complete = [path for path in output_dir.glob("checkpoint-*") if _is_complete(path)]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def _is_complete(checkpoint: Path) -> bool:
    """Whether the Trainer came to write the last file of a checkpoint."""
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def check_same_run(output_dir: Path, settings: dict[str, Any]) -> None:
    """Refuses to resume a run that was another: other data, method, model or seed."""
    file = output_dir / CONFIG_FILE
    if not file.exists():
        return
    before = yaml.safe_load(file.read_text(encoding="utf-8"))
    now = yaml.safe_load(yaml.safe_dump(settings))
    different = [
        f"{key} (then: {before.get(key)}, now: {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if key not in _MAY_DIFFER_ON_RESUME and before.get(key) != now.get(key)
    ]
    if different:
        raise BiasEnsembleError(
            f"cannot resume the run in {output_dir}: {'; '.join(different)}; use the settings in {file} or another "
            "--output_dir"
        )


_MAY_DIFFER_ON_RESUME = {
    "dataset_name",  # the fingerprint tells whether the data are the same
    "output_dir",
    "overwrite_output_dir",
    "pixel_memory_limit",
    "per_device_eval_batch_size",
    "max_steps",
    "eval_strategy",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "report_to",
    "use_cpu",
}


def use_own_progress(trainer: DebiasingTrainer) -> None:
    """Replaces the Trainer's bar and its printed logs by [`NamedProgressCallback`]."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
