"""What becomes of an incomplete last batch."""

import logging

from torch import nn

from hf_biasensemble.arguments import DebiasingArguments
from hf_biasensemble.internal.processes import is_first

logger = logging.getLogger(__name__)


def settle_last_batch(model: nn.Module, args: DebiasingArguments, num_samples: int, filled_up: bool) -> None:
    """Keeps an incomplete batch that is the only one; drops one of a single sample that batch normalisation fails on.

    Processes that split batches fill the last one up with samples from the start, so there it has no single sample.
    """
    batch_size = args.train_batch_size * args.world_size
    if num_samples < batch_size:
        args.dataloader_drop_last = False
    elif not args.dataloader_drop_last and not filled_up and num_samples % batch_size == 1:
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            args.dataloader_drop_last = True
            if is_first():
                logger.warning(
                    "warning: each epoch leaves out its last batch, which would be one sample (%d samples in batches "
                    "of %d), because batch normalisation needs two or more; another one each epoch",
                    num_samples,
                    batch_size,
                )
