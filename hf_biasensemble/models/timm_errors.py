"""What timm makes of a name and arguments, with errors in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import timm
from timm.models import parse_model_name, resolve_model_input_args

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifierConfig


@contextmanager
def timm_errors_named(config: DebiasedImageClassifierConfig) -> Iterator[None]:
    """Turns whatever timm raises for a name or arguments into a `BiasEnsembleError`."""
    try:
        yield
    except Exception as error:  # each network raises its own for arguments that it does not take
        name, given = config.backbone, ""
        if config.backbone_args:
            given = f" with --backbone_args {config.backbone_args}"
        said = " ".join(str(error).split())[:300]
        if "no source prefix" in said:
            raise BiasEnsembleError(
                f"--backbone {name}: expected mlp or the name of a timm model, found what may be a Hub id or a path; "
                f"a timm model on the Hub is hf-hub:{name}, one in a folder is local-dir:{name}"
            ) from error
        if not said or not isinstance(error, (RuntimeError, TypeError)):
            said = f"{type(error).__name__} {said}"
        near = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]) or "none"
        raise BiasEnsembleError(
            f"--backbone {name}{given}: {said}; timm models with a similar name: {near}"
        ) from error


@cache
def timm_source(name: str) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """timm's own name for a backbone in a folder (`local-dir:`) or on the Hub (`hf-hub:`).

    Returns:
        Its architecture, the arguments that make the same network of this, and its `pretrained_cfg`; for any other
        name, the name itself, no arguments and `None`.
    """
    if parse_model_name(name)[0] is None:
        return name, {}, None
    arguments = resolve_model_input_args(name)
    architecture, cfg = arguments.pop("model_name"), arguments.pop("pretrained_cfg")
    for unneeded in ("pretrained_model_args", "num_classes"):
        arguments.pop(unneeded, None)
    if cfg.get("fixed_input_size"):
        arguments.setdefault("img_size", cfg["input_size"][-1])
    return architecture, arguments, cfg
