"""Debiased image classifiers without bias labels: BiasEnsemble and LfF for the Hugging Face stack.

Names are imported when first used, so that `import hf_biasensemble` costs nothing. From then on,
`AutoModelForImageClassification.from_pretrained` opens models of this library without asking to run their code.
"""

import importlib
from typing import Any

from hf_biasensemble.internal.auto_classes import register_when_imported

__version__ = "0.2.0"

_HOME_OF = {
    "BiasEnsembleTrainer": "trainers.bias_ensemble",
    "DataArguments": "arguments",
    "DebiasedImageClassifier": "models.modeling_debiased",
    "DebiasedImageClassifierConfig": "models.modeling_debiased",
    "DebiasingArguments": "arguments",
    "DebiasingTrainer": "trainers.base",
    "DisentArguments": "trainers.disent",
    "DisentTrainer": "trainers.disent",
    "ErmTrainer": "trainers.erm",
    "Geometry": "data.geometry",
    "ImageSplit": "data.pixels",
    "ImageTransform": "data.batches.transforms",
    "LffTrainer": "trainers.lff",
    "METHODS": "methods",
    "Method": "arguments.descriptors",
    "ModelArguments": "arguments",
    "RelativeDifficultyArguments": "trainers.relative_difficulty",
    "Selection": "selection",
    "SelectionArguments": "arguments",
    "bias_accuracy": "evaluation.accuracy",
    "load_classifier": "models.export",
    "run": "runs.run",
}

register_when_imported()

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
