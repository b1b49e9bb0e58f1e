"""Every public name of the library; `from hf_biasensemble import NAME` imports it from here."""

from hf_biasensemble.arguments import (
    DataArguments,
    DebiasingArguments,
    InferenceArguments,
    ModelArguments,
    SelectionArguments,
    SelectorArguments,
    option,
)
from hf_biasensemble.arguments.descriptors import Method, Selector
from hf_biasensemble.arguments.options import require
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.batches.sampling import WeightedSampler
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.marks import image_hash
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.evaluation.accuracy import bias_accuracy
from hf_biasensemble.evaluation.classifier import evaluate_classifier
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.losses.objectives import cross_entropy, generalized_cross_entropy, relative_difficulty
from hf_biasensemble.losses.sample_losses import SampleLosses
from hf_biasensemble.methods import METHODS
from hf_biasensemble.methods.disent import DisentArguments
from hf_biasensemble.models.build import biased_and_debiased, classifier_alone, disentangled
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, DebiasedImageClassifierConfig
from hf_biasensemble.reporting.figures.curves import accuracy_curves
from hf_biasensemble.reporting.run.progress import results_table
from hf_biasensemble.runs.finished import Estimates, Run
from hf_biasensemble.runs.functions import audit, fit, judge
from hf_biasensemble.runs.run import run
from hf_biasensemble.runs.run_arguments import parse_run
from hf_biasensemble.runs.trainers import (
    DebiasingTrainer,
    DisentTrainer,
    ErmTrainer,
    GroupDroTrainer,
    JttTrainer,
    LastLayerTrainer,
    LffTrainer,
    LogitAdjustedTrainer,
    ProductOfExpertsTrainer,
)
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors import SELECTORS
from hf_biasensemble.selectors.bias_ensemble import SELECTOR as BIAS_ENSEMBLE
from hf_biasensemble.selectors.bias_ensemble import member_trainer
from hf_biasensemble.selectors.erm_errors import SELECTOR as ERM_ERRORS
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer
from hf_biasensemble.trainers.relative_difficulty import RelativeDifficultyArguments, RelativeDifficultyTrainer

__all__ = [
    "BIAS_ENSEMBLE",
    "ERM_ERRORS",
    "METHODS",
    "SELECTORS",
    "BiasEnsembleError",
    "BiasEnsembleTrainer",
    "DataArguments",
    "DebiasedImageClassifier",
    "DebiasedImageClassifierConfig",
    "DebiasingArguments",
    "DebiasingTrainer",
    "DisentArguments",
    "DisentTrainer",
    "ErmTrainer",
    "Estimates",
    "Geometry",
    "GroupDroTrainer",
    "ImageSplit",
    "ImageTransform",
    "InferenceArguments",
    "JttTrainer",
    "LastLayerTrainer",
    "LffTrainer",
    "LogitAdjustedTrainer",
    "Method",
    "ModelArguments",
    "ProductOfExpertsTrainer",
    "RelativeDifficultyArguments",
    "RelativeDifficultyTrainer",
    "Run",
    "SampleLosses",
    "Selection",
    "SelectionArguments",
    "SelectorArguments",
    "Selector",
    "WeightedSampler",
    "accuracy_curves",
    "audit",
    "bias_accuracy",
    "biased_and_debiased",
    "classifier_alone",
    "cross_entropy",
    "disentangled",
    "evaluate_classifier",
    "fit",
    "generalized_cross_entropy",
    "image_hash",
    "judge",
    "load_classifier",
    "load_image_splits",
    "member_trainer",
    "option",
    "parse_run",
    "relative_difficulty",
    "require",
    "results_table",
    "run",
    "run_command",
]
