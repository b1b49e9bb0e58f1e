"""An audit: trains only the biased members and shows the training images that contradict the shortcut."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.arguments import DataArguments, DebiasingArguments, ModelArguments, option
from hf_biasensemble.arguments.options import Fraction, Options, PositiveInt
from hf_biasensemble.data.pixels import write_unreadable
from hf_biasensemble.folders.output_folder import (
    DROPPED_FILE,
    check_same_run,
    checkpoint_to_resume,
    remove_earlier_run,
    results_in,
    sole_writer,
)
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS, method_of
from hf_biasensemble.models.build import check_backbone
from hf_biasensemble.reporting.audit.audit import write_audit
from hf_biasensemble.reporting.audit.weak_signals import contradicting
from hf_biasensemble.reporting.run.services import SettingsCallback
from hf_biasensemble.runs.prepared import Prepared
from hf_biasensemble.runs.selecting import make_selection


@dataclass
class AuditDataArguments(DataArguments):
    """Dataset, with no images held out by default."""

    validation_share: Fraction = option(
        0.0, "Fraction of train held out when there is no validation split; 0 disables it."
    )
    test_share: Fraction = option(0.0, "Fraction of train held out when there is no test split; 0 disables it.")


@dataclass
class AuditArguments(Options):
    """Content of the audit page."""

    num_images: PositiveInt = option(12, "Typical and flagged images to show for each class.")


def audit_images(
    data_args: DataArguments,
    model_args: ModelArguments,
    selection_args: Any,
    args: DebiasingArguments,
    num_images: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Makes or reuses the selection, and writes the audit page and lists to `args.output_dir`.

    Shows up to `num_images` typical and flagged images of each class. See [`run`] for the other arguments.
    """
    if args.push_to_hub:
        raise BiasEnsembleError("--push_to_hub: an audit has no model to push; leave the option out")
    method = method_of(args)
    selector = method.selector
    if selector is None:
        names = ", ".join(name for name, other in METHODS.items() if other.selector)
        raise BiasEnsembleError(f"--method: expected one that makes a selection ({names}), found {args.method}")
    output_dir = Path(args.output_dir)
    checkpoint_to_resume(args)  # only a check: members find their own checkpoint
    prepared = Prepared.of(method, data_args, model_args, selection_args, args)
    check_backbone(prepared.model_args, args.per_device_train_batch_size, prepared.member_features)
    if args.resume_from_checkpoint:
        check_same_run(output_dir, prepared.settings)
    with sole_writer(output_dir) if args.should_save else nullcontext():
        if args.should_save and args.overwrite_output_dir:
            remove_earlier_run(output_dir, args)
        if args.should_save and all(path.name == "selection" for path in results_in(output_dir)):  # no training run
            prepared.write_settings(output_dir)
        selection, _ = make_selection(
            selector,
            prepared.inputs(),
            prepared.selection_args,
            args,
            must_serve=False,
            callbacks=[SettingsCallback(prepared.settings), *callbacks],
        )
        if args.should_save:
            write_unreadable(prepared.splits, output_dir / DROPPED_FILE)
            name, config_name = str(data_args.dataset_name), data_args.dataset_config_name
            page = write_audit(output_dir, prepared.splits["train"], name, config_name, num_images)
            print(
                f"{(~selection.is_selected).sum():,} of {len(selection.index):,} training images flagged, "
                f"{contradicting(selection).sum():,} of them because the members predict another class; audit: {page}",
                flush=True,
            )
