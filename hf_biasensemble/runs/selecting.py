"""Makes the selection of a run, or reuses an existing one."""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.arguments.descriptors import Selector
from hf_biasensemble.folders.checkpoints import check_processes, newest_readable, remove_checkpoints
from hf_biasensemble.folders.output_folder import sole_writer
from hf_biasensemble.internal.errors import BiasEnsembleError, differences
from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.internal.processes import print_once
from hf_biasensemble.judging.members import FILE_NAME as MEMBERS_FILE
from hf_biasensemble.judging.members import Members
from hf_biasensemble.models.inputs import Inputs
from hf_biasensemble.reporting.run.progress import NamedProgressCallback, use_own_progress
from hf_biasensemble.reporting.run.services import run_of_its_own
from hf_biasensemble.selection import FILE_NAME, Selection


def make_selection(
    selector: Selector,
    inputs: Inputs,
    selection_args: Any,
    args: DebiasingArguments,
    must_serve: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[Selection, dict[str, Any]]:
    """Returns the selection in `output_dir/selection` or `selection_dir`, or else a new one, with its summary.

    Refuses an existing selection with other settings and, if `must_serve`, any that no method can be trained on.
    Members that can judge models are saved next to it.
    """
    folder = Path(args.output_dir) / "selection"
    shared = Path(selection_args.selection_dir or folder)
    provenance = {
        "train_fingerprint": inputs.images["train"].fingerprint,
        **selector.settings(inputs.member_args, selection_args, args),
        **{f"features_{name}": value for name, value in inputs.identity.items()},
    }
    guarded = shared != folder and args.should_save
    with sole_writer(shared, "--selection_dir", wait=True) if guarded else nullcontext():
        args.distributed_state.wait_for_everyone()  # all processes find the same files from here on
        members: Members | None = None
        found = next((place for place in (folder, shared) if (place / FILE_NAME).exists()), None)
        if found is None:
            trainer, runtime = _trained(selector, inputs, selection_args, args, callbacks)
            selection = trainer.select(provenance)
            if selector.judges:
                members = Members(
                    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval(),
                    inputs.member_args,
                    trainer.member_transform,
                    inputs.images["train"].class_names,
                    inputs.images["train"].fingerprint,
                    inputs.backbone,
                    inputs.member_features,
                )
        else:
            selection, runtime = Selection.load(found), {}
            different = differences(selection.provenance, provenance)
            if different:
                raise BiasEnsembleError(
                    f"{found / FILE_NAME} was made with other settings: {'; '.join(different)}; remove it or use "
                    f"another {'--output_dir' if found == folder else '--selection_dir'}"
                )
        flagged = int((~selection.is_selected).sum())
        print_once(
            f"{selector.title}: {flagged:,} of {len(selection.index):,} training images flagged"
            + (f"; votes reused from {found}" if found else "")
        )
        if must_serve:
            try:
                selector.check(selection, inputs.images["train"].class_names)
            except BiasEnsembleError:
                if args.should_save:  # no run can continue with these members
                    remove_checkpoints(folder)
                raise
        if args.should_save:
            for place in {folder, shared} - {found}:  # members first: a selection is never without them
                if members is not None:
                    members.save(place)
                elif found is not None and (found / MEMBERS_FILE).exists():
                    with written_whole(place / MEMBERS_FILE) as unfinished:
                        shutil.copyfile(found / MEMBERS_FILE, unfinished)
                selection.save(place)
            remove_checkpoints(folder)  # the members' checkpoints are no longer needed
        args.distributed_state.wait_for_everyone()
    return selection, {**selection.summary(), **runtime}


def _trained(
    selector: Selector,
    inputs: Inputs,
    selection_args: Any,
    args: DebiasingArguments,
    callbacks: Sequence[TrainerCallback],
) -> tuple[Any, dict[str, Any]]:
    """Trains the members; returns the selector's trainer and `selection_runtime`."""
    progress = NamedProgressCallback(selector.title)
    trainer = selector.trainer(inputs.member_args, selection_args, args, inputs.member_splits, [progress, *callbacks])
    use_own_progress(trainer)
    folder = Path(trainer.args.output_dir)
    checkpoint = newest_readable(folder) if args.resume_from_checkpoint else None
    if checkpoint is not None:
        check_processes(checkpoint, args.world_size)
    with run_of_its_own(trainer.args):
        trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_finite()
    return trainer, {"selection_runtime": trained.metrics["train_runtime"]}
