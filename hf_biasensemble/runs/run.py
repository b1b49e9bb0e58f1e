"""One run from start to finish: data -> selection -> debiasing -> published model and results."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments
from hf_biasensemble.arguments.descriptors import Method
from hf_biasensemble.data.pixels import ImageSplit, write_unreadable
from hf_biasensemble.evaluation.classifier import details_of, measured
from hf_biasensemble.folders.checkpoints import UNFINISHED, one_line_if_not_written
from hf_biasensemble.folders.hub import check_can_push, push_model
from hf_biasensemble.folders.output_folder import (
    DROPPED_FILE,
    HISTORY_FILE,
    RESULTS_FILE,
    check_output_dir,
    checkpoint_to_resume,
    remove_earlier_run,
    sole_writer,
)
from hf_biasensemble.folders.shared_folder import check_seen_by_all
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import write_json
from hf_biasensemble.internal.processes import print_once, refuse_data_parallel, warn_of_missing_processes
from hf_biasensemble.internal.seeding import build_with_seed
from hf_biasensemble.judging.judge import (
    before_repair,
    judgement,
    members_that_judge,
    of_other_run,
    pseudo_groups_of,
)
from hf_biasensemble.methods import method_of
from hf_biasensemble.models.build import check_backbone
from hf_biasensemble.models.inputs import Inputs
from hf_biasensemble.models.reopening import check_reopens
from hf_biasensemble.reporting.audit.audit import write_audit
from hf_biasensemble.reporting.card.model_card import environment_of, write_model_card
from hf_biasensemble.reporting.run.history import HistoryCallback
from hf_biasensemble.reporting.run.progress import ORACLE_MARK, NamedProgressCallback, results_table, use_own_progress
from hf_biasensemble.reporting.run.run_figures import write_run_figures
from hf_biasensemble.reporting.run.services import SettingsCallback
from hf_biasensemble.runs.choosing import check_candidates, choose_candidate
from hf_biasensemble.runs.prepared import Prepared
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.trainers.checkpoint_choice import CheckpointChoice, check_checkpoint_choice


def run(
    data_args: DataArguments,
    model_args: ModelArguments,
    selection_args: Any,
    args: DebiasingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Trains one method on one dataset and writes everything to `args.output_dir`.

    Args:
        data_args (`DataArguments`): The dataset.
        model_args (`ModelArguments`): Network and preprocessing.
        selection_args (dataclass or `None`): Options of the method's selector, if it has one: `SelectionArguments` for
            methods with BiasEnsemble.
        args (`DebiasingArguments`): Training settings, of the type `Method.arguments`.
        callbacks (`Sequence[TrainerCallback]`, *optional*): Added to the training of members and classifier.

    Returns:
        `dict`: The content of `all_results.json`.
    """
    method = method_of(args)
    warn_of_missing_processes(args.world_size)
    refuse_data_parallel(args.n_gpu)
    output_dir = Path(args.output_dir)
    hub_model_id = args.hub_model_id or output_dir.resolve().name
    if args.push_to_hub:
        check_can_push(hub_model_id, args.hub_token)
    prepared, checkpoint = prepare_run(data_args, model_args, selection_args, args)
    owner = sole_writer(output_dir) if args.should_save else nullcontext()
    with owner, one_line_if_not_written(f"the results in {output_dir}"):
        if args.should_save:
            remove_earlier_run(output_dir, args, checkpoint)
            shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
            prepared.write_settings(output_dir)
            write_unreadable(prepared.splits, output_dir / DROPPED_FILE)
        check_seen_by_all(output_dir, args.device)
        inputs, selection_args = prepared.inputs(), prepared.selection_args
        callbacks = [SettingsCallback(prepared.settings), *callbacks]
        candidates: dict[str, Any] = {}
        if method.chooses:
            candidate, candidates = choose_candidate(inputs, selection_args, args, method.selector, callbacks)
            method, args = candidate.method, candidate.settings(args)
        results = _train_and_publish(method, inputs, selection_args, args, checkpoint, callbacks, candidates)
        if getattr(selection_args, "audit", False) and args.should_save:
            name, config_name = str(data_args.dataset_name), data_args.dataset_config_name
            print(f"audit: {write_audit(output_dir, prepared.splits['train'], name, config_name)}", flush=True)
        if args.push_to_hub and args.should_save:
            print(f"pushed: {push_model(output_dir, hub_model_id, bool(args.hub_private_repo), token=args.hub_token)}")
    return results


def prepare_run(
    data_args: DataArguments, model_args: ModelArguments, selection_args: Any, args: DebiasingArguments
) -> tuple[Prepared, Path | None]:
    """Checks everything before training; returns the prepared run and the checkpoint to resume from, if any.

    Sets steps and schedule in `args`; writes nothing to `output_dir`.
    """
    checkpoint = checkpoint_to_resume(args)
    check_output_dir(Path(args.output_dir), args, checkpoint)
    method = method_of(args)
    prepared = Prepared.of(method, data_args, model_args, selection_args, args)
    splits, model_args = prepared.splits, prepared.model_args
    check_checkpoint_choice(args, splits, bool(args.judge or (method.selector and method.selector.judges)))
    if args.judge:
        members_that_judge(args.judge, None, splits["train"])  # fails before anything is written
    compares = args.compare_with and "validation" in splits
    if compares and of_other_run(args.compare_with, splits["train"].fingerprint)[0] is None:
        print_once(
            f"--compare_with {args.compare_with}: no estimates will be compared, since this is not the folder of a "
            "finished run on the same training images with a validation split"
        )
    if method.chooses:
        check_candidates(args, model_args, method.selector, splits["train"])
    check_network(prepared)
    prepared.settle_steps(checkpoint)
    return prepared, checkpoint


def check_network(prepared: Prepared) -> None:
    """Refuses a network that cannot be built, initialised, trained or published with these settings."""
    method, model_args, args = prepared.method, prepared.model_args, prepared.args
    class_names = prepared.splits["train"].class_names
    if method.starts_from and not (model_args.init_from or model_args.on_features):
        raise BiasEnsembleError(
            f"--init_from: expected the folder of a finished run of {method.starts_from}, from which {method.name} "
            "starts, found nothing; train that first, with the same network and data"
        )
    if method.starts_from and model_args.head != "linear":
        raise BiasEnsembleError(
            f"--head: expected linear with --method {method.name}, which only trains that, found {model_args.head}"
        )
    check_backbone(model_args, args.per_device_train_batch_size, prepared.member_features)
    if model_args.init_from and not model_args.freeze_backbone:
        build_with_seed(0, lambda: method.network(model_args, class_names, 0))  # its weights may not fit
    if args.should_save:
        check_reopens(method.network, model_args, class_names)


def _train_and_publish(
    method: Method,
    inputs: Inputs,
    selection_args: Any,
    args: DebiasingArguments,
    checkpoint: Path | None,
    callbacks: Sequence[TrainerCallback],
    candidates: Mapping[str, Any],
) -> dict[str, Any]:
    """Makes the selection, trains, publishes and judges; `candidates` is how `method` was chosen, for the results."""
    output_dir, splits, train = Path(args.output_dir), inputs.splits, inputs.splits["train"]
    evaluated: dict[str, ImageSplit] = {name: splits[name] for name in ("validation", "test") if name in splits}
    results: dict[str, Any] = {}
    before = before_repair(inputs, list(evaluated), args.device, args.eval_batch_size)
    if before:
        results["before"] = {
            f"{name}_{key}": value
            for name, found in before.items()
            for key, value in measured(evaluated[name], found.predictions).items()
        }
    network = method.network(inputs.network_args, train.class_names, args.seed)
    selection = None
    extra = {}
    if method.selector:
        selection, summary = make_selection(method.selector, inputs, selection_args, args, method.needs_set, callbacks)
        results |= summary
        extra = {"selection": selection}
    progress, history = NamedProgressCallback(f"Training {method.name}"), HistoryCallback(output_dir / HISTORY_FILE)
    trainer = method.trainer(
        network,
        args,
        inputs.transform,
        train_dataset=train,
        eval_dataset=evaluated,
        callbacks=[progress, history, *callbacks],
        **extra,
    )
    use_own_progress(trainer)
    trainer.publisher = inputs.publish

    own_members = output_dir / "selection" if method.selector or candidates else None
    members = members_that_judge(args.judge, own_members, inputs.images["train"])
    if members and "validation" in splits:
        groups = pseudo_groups_of(members.to(args.device), inputs, "validation", args.eval_batch_size)
        trainer.judged = {"validation": groups}
    if args.checkpoint_choice == "estimated":
        reason = groups.doubt() if members else "the selection is from version 0.1, which did not save its members"
        if reason:
            print_once(
                f"--checkpoint_choice estimated: cannot tell which step is best, so the last one is "
                f"published; {reason}"
            )
            trainer.checkpoint_choice = CheckpointChoice("last")
    trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_finite()
    results |= {key: trained.metrics[key] for key in ("train_runtime", "train_steps_per_second", "train_loss")}
    results |= trainer.publish()
    held_out = {name: trainer.held_out_predictions(name, split) for name, split in evaluated.items()}
    for name, split in evaluated.items():
        details = details_of(split, held_out[name].predictions)
        results |= {f"{name}_{key}": value for key, value in details.items()}
    if "validation" in held_out:
        other, other_name = of_other_run(args.compare_with, inputs.images["train"].fingerprint)
        if other is None and "validation" in before:
            other, other_name = before["validation"], "the original classifier"
        judged = judgement(held_out["validation"], other, other_name)
        results |= {f"validation_{key}": value for key, value in judged.items()}
        if "estimated_intervals" not in judged:  # doubtful estimates may choose the step, but are not reported
            results = {key: value for key, value in results.items() if "_estimated_" not in key}
    results |= candidates
    results["environment"] = environment_of(args.device)
    if trainer.is_world_process_zero():
        trainer.save_model(str(output_dir))
        trainer.save_state()
        if "validation" in held_out:
            held_out["validation"].save(output_dir, "validation")
        write_json(output_dir / RESULTS_FILE, results)
        tested = held_out["test"].predictions if "test" in held_out else None
        write_run_figures(output_dir, selection, evaluated.get("test"), tested)
        write_model_card(output_dir, method, {"train": train, **evaluated}, args.world_size, args.hub_model_id)
        if evaluated:
            mark = f", {ORACLE_MARK}" if results["checkpoint_choice"] == "oracle_test" else ""
            print(results_table({"before": results.get("before", {}), method.name + mark: results}))
        if "validation_judgement" in results:
            print(results["validation_judgement"])
        print(f"saved to {output_dir}", flush=True)
    trainer.accelerator.wait_for_everyone()  # the results are there for all processes
    return results
