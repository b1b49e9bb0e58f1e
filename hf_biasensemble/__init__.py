"""Debiased image classifiers without bias labels: BiasEnsemble and LfF for the Hugging Face stack.

Names are imported when first used, so that `import hf_biasensemble` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.2.0.dev0"

_HOME_OF = {
    "BiasEnsembleTrainer": "trainers.bias_ensemble",
    "DataArguments": "arguments",
    "DebiasedImageClassifier": "models.export",
    "DebiasedImageClassifierConfig": "models.export",
    "DebiasingArguments": "arguments",
    "DebiasingTrainer": "trainers.base",
    "DisentTrainer": "trainers.disent",
    "ErmTrainer": "trainers.erm",
    "ImageSplit": "data.pixels",
    "ImageTransform": "data.transforms",
    "LffTrainer": "trainers.lff",
    "ModelArguments": "arguments",
    "Selection": "selection",
    "SelectionArguments": "arguments",
    "bias_accuracy": "metrics.accuracy",
    "load_classifier": "models.export",
    "run": "run",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
