"""How many steps a run has, and which number of steps its schedules count from: settled once, then kept."""

import math
from collections.abc import Mapping
from typing import Any

from hf_biasensemble.arguments.options import require
from hf_biasensemble.arguments.training import DebiasingArguments

_NEVER_ENDING = ("constant", "constant_with_warmup", "inverse_sqrt")


def steps_of_epochs(args: DebiasingArguments, num_samples: int) -> int:
    """The optimisation steps that `num_train_epochs` passes over the training images come to, as a Trainer counts."""
    batch_size = args.train_batch_size * args.world_size
    batches = num_samples / batch_size
    per_epoch = max(1, math.floor(batches) if args.dataloader_drop_last else math.ceil(batches))
    return math.ceil(args.num_train_epochs * math.ceil(per_epoch / args.gradient_accumulation_steps))


def settle_steps(args: DebiasingArguments, num_samples: int, before: Mapping[str, Any]) -> None:
    """Sets `max_steps` where epochs were asked for, and `schedule_steps`, from which fractions and learning rate
    schedules count: those of the run that is resumed (its `config.yaml` is `before`), so that another `max_steps`
    moves no schedule.

    Raises:
        `BiasEnsembleError`: If a resumed run would go on with a learning rate that has reached its end.
    """
    if args.num_train_epochs:
        args.max_steps, args.num_train_epochs = steps_of_epochs(args, num_samples), 0
    kept = before.get("schedule_steps", before.get("max_steps", args.schedule_steps))
    as_before = args.schedule_steps in (None, kept)
    require(as_before, "--schedule_steps", f"{kept}, as the run that is resumed", args.schedule_steps)
    args.schedule_steps = kept or args.max_steps
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    lasts = kind in _NEVER_ENDING or args.max_steps <= args.schedule_steps
    expected = f"at most {args.schedule_steps}, where --lr_scheduler_type {kind} ends (schedule_steps)"
    require(lasts, "--max_steps", expected, args.max_steps)
