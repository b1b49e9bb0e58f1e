"""One whole run: data -> selection -> debiasing -> published model and results. Data flows one way."""

import json
import logging
import math
import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hf_biasensemble.arguments import (
    CHECKPOINT_CHOICES,
    DataArguments,
    DebiasingArguments,
    ModelArguments,
    SelectionArguments,
    resolved,
    with_protocol,
)
from hf_biasensemble.checkpoints import (
    UNFINISHED,
    check_processes,
    newest_readable,
    one_line_if_not_written,
    remove_checkpoints,
)
from hf_biasensemble.data.pixels import ImageSplit, write_unreadable
from hf_biasensemble.data.prepare import image_transform, load_training_splits, stated_aligned_bias
from hf_biasensemble.errors import BiasEnsembleError, differences
from hf_biasensemble.files import written_whole
from hf_biasensemble.hub import check_can_push, push_model
from hf_biasensemble.models.build import build_members, build_trainable, check_backbone
from hf_biasensemble.models.export import save_classifier
from hf_biasensemble.output_folder import (
    CONFIG_FILE,
    DROPPED_FILE,
    HISTORY_FILE,
    RESULTS_FILE,
    check_output_dir,
    check_same_run,
    checkpoint_to_resume,
    remove_earlier_run,
    sole_writer,
)
from hf_biasensemble.processes import warn_of_missing_processes
from hf_biasensemble.reporting.audit import write_audit
from hf_biasensemble.reporting.history import HistoryCallback
from hf_biasensemble.reporting.model_card import write_model_card
from hf_biasensemble.reporting.progress import ORACLE_MARK, NamedProgressCallback, results_table
from hf_biasensemble.reporting.run_figures import write_run_figures
from hf_biasensemble.selection import FILE_NAME, Selection
from hf_biasensemble.trainers.base import DebiasingTrainer
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer
from hf_biasensemble.trainers.disent import DisentTrainer
from hf_biasensemble.trainers.erm import ErmTrainer
from hf_biasensemble.trainers.lff import LffTrainer

logger = logging.getLogger(__name__)

TRAINERS: dict[str, type[DebiasingTrainer]] = {
    "erm": ErmTrainer,
    "lff": LffTrainer,
    "disent": DisentTrainer,
    "lff_be": LffTrainer,
    "disent_be": DisentTrainer,
}


def run(
    data_args: DataArguments, model_args: ModelArguments, selection_args: SelectionArguments, args: DebiasingArguments
) -> dict[str, Any]:
    """Trains one method on one data set and writes everything into `args.output_dir`.

    Returns:
        `dict`: The content of `all_results.json`.
    """
    warn_of_missing_processes(args.world_size)
    output_dir = Path(args.output_dir)
    selection_args = with_protocol(selection_args, args)
    hub_model_id = args.hub_model_id or output_dir.resolve().name
    if args.push_to_hub:
        check_can_push(hub_model_id, args.hub_token)
    checkpoint = checkpoint_to_resume(args)
    check_output_dir(output_dir, args, checkpoint)
    splits = load_training_splits(data_args, model_args.image_size)
    check_checkpoint_choice(args, splits)
    check_backbone(model_args, args.per_device_train_batch_size)
    settings = resolved(data_args, model_args, selection_args, args)
    settings["train_fingerprint"] = check_fingerprint(splits["train"], data_args)
    settings["aligned_bias"] = stated_aligned_bias(splits["train"], data_args)
    if args.resume_from_checkpoint:
        check_same_run(checkpoint.parent if checkpoint else output_dir, settings)
    owner = sole_writer(output_dir) if args.should_save else nullcontext()
    with owner, one_line_if_not_written(f"the results in {output_dir}"):
        if args.should_save:
            remove_earlier_run(output_dir, args, checkpoint)
            shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
            with written_whole(output_dir / CONFIG_FILE) as file:
                file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
            write_unreadable(splits, output_dir / DROPPED_FILE)
        results = train_and_publish(model_args, selection_args, args, splits, checkpoint)
        if args.audit and args.should_save:
            name, config_name = str(data_args.dataset_name), data_args.dataset_config_name
            print(f"audit: {write_audit(output_dir, splits['train'], name, config_name)}", flush=True)
        if args.push_to_hub and args.should_save:
            print(f"pushed: {push_model(output_dir, hub_model_id, bool(args.hub_private_repo), token=args.hub_token)}")
    return results


def train_and_publish(
    model_args: ModelArguments,
    selection_args: SelectionArguments,
    args: DebiasingArguments,
    splits: dict[str, ImageSplit],
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Selection, training, published model and results of a run whose settings have been checked."""
    output_dir = Path(args.output_dir)
    transform = image_transform(model_args, args.augmentation)
    evaluated: dict[str, ImageSplit] = {name: splits[name] for name in ("validation", "test") if name in splits}
    results: dict[str, Any] = {}
    selection = None
    if args.uses_selection:
        selection, results = make_selection(model_args, selection_args, args, splits)

    class_names = splits["train"].class_names
    model = build_trainable(model_args, class_names, args.method, args.seed)
    extra = {} if args.method == "erm" else {"selection": selection}
    callbacks = [NamedProgressCallback(f"Training {args.method}"), HistoryCallback(output_dir / HISTORY_FILE)]
    trainer = TRAINERS[args.method](
        model, args, transform, train_dataset=splits["train"], eval_dataset=evaluated, callbacks=callbacks, **extra
    )
    use_own_progress(trainer)
    trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_finite()
    results |= {key: trained.metrics[key] for key in ("train_runtime", "train_steps_per_second", "train_loss")}
    results |= trainer.publish()
    test = evaluated.get("test")
    predictions = None
    if test and test.groups():
        predictions = trainer.predict_logits(test).argmax(dim=-1).numpy()
    if trainer.is_world_process_zero():
        save_classifier(trainer.published_model(), transform, output_dir)
        trainer.save_state()
        with written_whole(output_dir / RESULTS_FILE) as file:
            file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        write_run_figures(output_dir, selection, test, predictions)
        write_model_card(output_dir, {"train": splits["train"], **evaluated}, args.world_size, args.hub_model_id)
        if evaluated:
            mark = f", {ORACLE_MARK}" if args.checkpoint_choice == "oracle_test" else ""
            print(results_table({args.method + mark: results}))
        print(f"saved to {output_dir}", flush=True)
    return results


def check_checkpoint_choice(args: DebiasingArguments, splits: dict[str, ImageSplit]) -> None:
    """Refuses a `checkpoint_choice` that the data cannot make, and warns of one that looks at the test split."""
    metric = CHECKPOINT_CHOICES[args.checkpoint_choice]
    if metric is None:
        return
    name = f"--checkpoint_choice {args.checkpoint_choice}"
    split = splits.get(metric.split("_")[0])
    if split is None:
        raise BiasEnsembleError(
            f"{name}: expected a {metric.split('_')[0]} split, found {', '.join(splits)}; use last"
        )
    if args.eval_strategy == "no":
        raise BiasEnsembleError(f"{name}: expected evaluations to choose from, found --eval_strategy no; use last")
    conflicting = split.measured_by()["is_conflicting"]
    if metric.endswith("ac_score") and (conflicting is None or len(np.unique(conflicting)) < 2):
        raise BiasEnsembleError(
            f"{name}: expected a validation split with bias labels, some aligned and some conflicting, found "
            f"{'no bias labels' if conflicting is None else 'one kind only'}; use last"
        )
    if args.checkpoint_choice == "oracle_test" and args.should_save:
        logger.warning(
            "warning: --checkpoint_choice oracle_test publishes the step that is best on the test split; its test "
            "figures are too high and only compare with figures that were chosen the same way (%s)",
            ORACLE_MARK,
        )


def check_fingerprint(train: ImageSplit, data_args: DataArguments) -> str:
    """The fingerprint of the training data, which must be the one asked for, if any."""
    if data_args.train_fingerprint not in (None, train.fingerprint):
        raise BiasEnsembleError(
            f"--train_fingerprint: expected training data {data_args.train_fingerprint}, found {train.fingerprint} in "
            f"{data_args.dataset_name}; use the data of that run, or leave the option out"
        )
    return train.fingerprint


def selection_settings(
    model_args: ModelArguments, selection_args: SelectionArguments, args: DebiasingArguments
) -> dict[str, Any]:
    """All settings that the members' votes depend on, as plain values."""
    settings = {
        "batch_size": args.per_device_train_batch_size * args.world_size,
        **{name: getattr(args, name) for name in _MEMBER_OPTIONS},
        **asdict(selection_args),
        **asdict(model_args),
    }
    settings.pop("selection_dir")
    for name in ("learning_rate", "image_scale"):
        settings[name] = settings.pop(f"member_{name}") or settings[name]
    return json.loads(json.dumps(settings, default=str))


_MEMBER_OPTIONS = (
    "seed",
    "data_seed",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "gradient_accumulation_steps",
    "dataloader_drop_last",
    "bf16",
    "fp16",
    "generalized_cross_entropy_q",
)


def make_selection(
    model_args: ModelArguments,
    selection_args: SelectionArguments,
    args: DebiasingArguments,
    splits: dict[str, ImageSplit],
    must_serve: bool = True,
) -> tuple[Selection, dict[str, Any]]:
    """The bias-amplified set: the one in `output_dir/selection` or in `selection_dir`, or else a new one.

    One that is there but was made from something else is refused by name. So is one that lacks a class, new or not,
    unless `must_serve` is false: it cannot serve training, but can be looked at.

    Returns:
        The selection, and its summary with `selection_runtime`.
    """
    folder = Path(args.output_dir) / "selection"
    shared = Path(selection_args.selection_dir or folder)
    provenance = {
        "train_fingerprint": splits["train"].fingerprint,
        **selection_settings(model_args, selection_args, args),
    }
    guarded = shared != folder and args.should_save
    with sole_writer(shared, "--selection_dir", wait=True) if guarded else nullcontext():
        args.distributed_state.wait_for_everyone()  # from here on all processes find the same
        found = next((place for place in (folder, shared) if (place / FILE_NAME).exists()), None)
        if found is None:
            selection, runtime = train_members(model_args, selection_args, args, splits, provenance)
        else:
            selection, runtime = Selection.load(found), {}
            different = differences(selection.provenance, provenance)
            if different:
                raise BiasEnsembleError(
                    f"{found / FILE_NAME} was made with other settings: {'; '.join(different)}; remove it or use "
                    f"another {'--output_dir' if found == folder else '--selection_dir'}"
                )
        if must_serve:
            try:
                selection.check(splits["train"].class_names)
            except BiasEnsembleError:
                if args.should_save:  # nobody can go on from these members
                    remove_checkpoints(folder)
                raise
        if args.should_save:
            for place in {folder, shared} - {found}:
                selection.save(place)
            remove_checkpoints(folder)  # of the members, no longer of use
        args.distributed_state.wait_for_everyone()
    return selection, {**selection.summary(), **runtime}


def train_members(
    model_args: ModelArguments,
    selection_args: SelectionArguments,
    args: DebiasingArguments,
    splits: dict[str, ImageSplit],
    provenance: dict[str, Any],
) -> tuple[Selection, dict[str, Any]]:
    """Trains the biased members and lets them vote; gives the selection and `selection_runtime`."""
    train = splits["train"]
    if selection_args.keep_member == "best" and "validation" not in splits:
        raise BiasEnsembleError("--keep_member best: expected a validation split to choose by, found none; use last")
    changes: dict[str, Any] = {
        "output_dir": str(Path(args.output_dir) / "selection"),
        "eval_strategy": "no",
        "save_total_limit": 1,
    }
    if args.save_strategy != "no":
        every = args.save_steps if args.save_strategy == "steps" and args.save_steps >= 1 else math.inf
        changes |= {"save_strategy": "steps", "save_steps": min(every, math.ceil(selection_args.member_steps / 5))}
    changes |= {"checkpoint_choice": "last", "published_protocol": False, "step_decay_steps": 0}
    changes |= {"weight_average": 0.0}
    changes |= {"learning_rate": selection_args.member_learning_rate or args.learning_rate}
    member_args = replace(args, max_steps=selection_args.member_steps, **changes)
    scale = selection_args.member_image_scale or model_args.image_scale
    members = build_members(model_args, train.class_names, selection_args.num_members, args.seed)
    trainer = BiasEnsembleTrainer(
        members,
        member_args,
        image_transform(replace(model_args, image_scale=scale)),
        selection_args,
        train_dataset=train,
        eval_dataset={name: split for name, split in splits.items() if name == "validation"},
        callbacks=[NamedProgressCallback("BiasEnsemble members")],
    )
    use_own_progress(trainer)
    checkpoint = newest_readable(Path(member_args.output_dir)) if args.resume_from_checkpoint else None
    if checkpoint is not None:
        check_processes(checkpoint, args.world_size)
    trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_finite()
    selection = trainer.select(provenance)
    return selection, {"selection_runtime": trained.metrics["train_runtime"]}


def use_own_progress(trainer: DebiasingTrainer) -> None:
    """Replaces the Trainer's bar and its printed logs by [`NamedProgressCallback`]."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
