"""Judges the models of a run without bias labels and compares them with others."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import image_geometry
from hf_biasensemble.folders.output_folder import settings_in
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.processes import print_once
from hf_biasensemble.judging.members import FILE_NAME, Members
from hf_biasensemble.judging.predictions import HeldOutPredictions
from hf_biasensemble.judging.pseudo_groups import PseudoGroups
from hf_biasensemble.judging.verdict import reason_not_to_tell, sentence
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.models.inputs import Inputs


def members_that_judge(judge: str | None, own: Path | None, train: ImageSplit) -> Members | None:
    """The members that `--judge` names, by default those in the run's `own` folder, if any.

    Refuses members trained on other images, since these may include images held out here.
    """
    if judge is None:
        return Members.load(own) if own is not None and (own / FILE_NAME).exists() else None
    members = Members.load(judge)
    if members.train_fingerprint != train.fingerprint:
        raise BiasEnsembleError(
            f"--judge {judge}: expected members trained on the training images of this run ({train.fingerprint}), "
            f"found others ({members.train_fingerprint}), which may have learned from its validation images; use the "
            "same data, sizes and --split_seed"
        )
    return members


def pseudo_groups_of(members: Members, inputs: Inputs, name: str, batch_size: int) -> PseudoGroups:
    """Pseudo-groups of a split of a run. Members with the same frozen backbone reuse its features."""
    ours, theirs = inputs.backbone, members.backbone
    same = ours is not None and theirs is not None and ours.identity == theirs.identity
    return members.groups_of((inputs.encoded[members.features] if same else inputs.images)[name], batch_size)


def judgement(model: HeldOutPredictions, other: HeldOutPredictions | None, other_name: str) -> dict[str, Any]:
    """Judgement of the published model for the results of a run, compared with another model on the same images."""
    if not model.groups.members:
        return {}
    other = model.comparable(other)
    found: dict[str, Any] = {
        "judgement": sentence(model, other, other_name),
        "judged_by": {
            "members": model.groups.members,
            "groups": model.groups.digest,
            "images": len(model.groups),
            "pseudo_conflicting": int(model.groups.is_conflicting.sum()),
            "hesitation": model.groups.hesitation,
        },
    }
    if not reason_not_to_tell(*filter(None, (model, other))):
        found["estimated_intervals"] = {
            f"estimated_{name}_accuracy": [estimate.low, estimate.high, estimate.images]
            for name, estimate in model.intervals().items()
        }
    return found


def before_repair(
    inputs: Inputs, names: Sequence[str], device: torch.device, batch_size: int
) -> dict[str, HeldOutPredictions]:
    """Predictions by the classifier that a run repairs; empty if there is none, or its classes or resizing differ."""
    name, geometry = inputs.image_args.init_from, image_geometry(inputs.image_args)
    if not (name and inputs.image_args.freeze_backbone and names):
        return {}
    try:
        model, transform, theirs = load_classifier(name)
        if theirs != geometry:
            raise BiasEnsembleError(f"it sees images of {theirs.image_size} pixels or resizes them differently")
        model.to(device)
        return {
            split: HeldOutPredictions.of_model(model, inputs.images[split], transform, batch_size, name)
            for split in names
        }
    except BiasEnsembleError as error:
        print_once(f"{name}: its accuracy before repair is left out; {error}")
        return {}


def of_other_run(folder: str | None, train_fingerprint: str) -> tuple[HeldOutPredictions | None, str]:
    """Predictions and method of a finished run on the same training images."""
    if folder:
        # The run may be unfinished, or from a version without such tables.
        with suppress(OSError, KeyError, TypeError, ValueError, BiasEnsembleError):
            config = settings_in(folder)
            if config["train_fingerprint"] == train_fingerprint:
                return HeldOutPredictions.load(folder, "validation"), str(config["method"])
    return None, ""
