"""What timm says of a name or arguments that it does not know, in one line of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import timm

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifierConfig


@contextmanager
def timm_errors_named(config: DebiasedImageClassifierConfig) -> Iterator[None]:
    """Words what timm says of a name or arguments that it does not know as a `BiasEnsembleError`."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        near = ", ".join(timm.list_models(f"*{config.backbone.split('.')[0][:8]}*")[:5])
        raise BiasEnsembleError(
            f"--backbone {config.backbone} with arguments {config.backbone_args}: {' '.join(str(error).split())}; "
            f"timm models with a similar name: {near or 'none'}"
        ) from error
