"""Checks before training that the classifier of a run can be published."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.prepare import image_geometry, image_transform
from hf_biasensemble.internal.errors import BiasEnsembleError, reason_of
from hf_biasensemble.internal.seeding import build_with_seed
from hf_biasensemble.models.backbones import from_scratch
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.export import load_classifier, save_classifier
from hf_biasensemble.models.modeling_debiased import FEATURES, DebiasedImageClassifier

TOLERANCE = 1e-5
"""Allowed difference of logits, relative to the largest if above 1: a linear head may be saved as a convolution."""


def check_reopens(
    network: Callable[[ModelArguments, list[str], int], nn.Module], model_args: ModelArguments, class_names: list[str]
) -> None:
    """Saves an untrained classifier of `Method.network`, opens it, and refuses other tensors or logits."""
    if model_args.backbone in ("mlp", FEATURES):
        return  # linear layers have no state besides their weights
    problem = build_with_seed(0, lambda: _problem_of(_untrained(network, model_args, class_names), model_args))
    if problem:
        raise BiasEnsembleError(
            f"--backbone {model_args.backbone}: expected a network that can be saved and reopened unchanged, found "
            f"{problem}; use another backbone"
        )


def _untrained(
    network: Callable[[ModelArguments, list[str], int], nn.Module], model_args: ModelArguments, class_names: list[str]
) -> DebiasedImageClassifier:
    """The classifier that the run will publish, with random weights."""
    whole: Any = network(from_scratch(model_args), class_names, 0)
    classifier: DebiasedImageClassifier = getattr(whole, "debiased", whole)
    if model_args.head == "mlp":
        config = classifier_config(model_args, class_names, classifier.config.num_encoders)
        config.head_hidden = model_args.head_hidden
        classifier = DebiasedImageClassifier(config)
    return classifier.eval()


@contextmanager
def _uninitialised_as_nan() -> Iterator[None]:
    """Fills uninitialised tensors with NaN; memory may hold the right values by chance."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)


@torch.inference_mode()
def _problem_of(classifier: DebiasedImageClassifier, model_args: ModelArguments) -> str | None:
    """Describes what goes wrong in saving and reopening the classifier; `None` if nothing does."""
    size = model_args.preprocessing()["image_size"]
    image = torch.randn(1, classifier.config.num_channels, size, size)
    expected = classifier(image).logits
    if not expected.isfinite().all():
        return "logits that are not finite before training"
    with TemporaryDirectory() as folder:
        try:
            saved = save_classifier(classifier, image_transform(model_args), folder, image_geometry(model_args))
            with _uninitialised_as_nan():
                opened, _, _ = load_classifier(folder)
            found = opened(image).logits
            saved(image)  # some networks fill a buffer when they are first called
        except Exception as error:  # timm, transformers and safetensors raise unrelated types
            return reason_of(error, 200)
    theirs = {**dict(opened.named_parameters()), **dict(opened.named_buffers())}
    for name, tensor in (*saved.named_parameters(), *saved.named_buffers()):
        if name not in theirs or not torch.equal(tensor, theirs[name]):
            return f"another {name}"
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        return f"logits that differ by {difference:.2g}"
    return None
