"""Checkpoints of the authors' code (https://github.com/kakaoenterprise/BiasEnsemble) as classifiers of this library.

That code writes `best_model_d.th` (debiased network) and `best_model_b.th` (biased network) into one folder. With
DisEnt neither works alone: each file holds one encoder and one head, and each head reads the intrinsic features
(encoder of `best_model_d.th`) followed by the bias features (encoder of `best_model_b.th`).
"""

import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier

ENCODERS = {"lff": 1, "disent": 2}
FILES = {"debiased": "best_model_d.th", "biased": "best_model_b.th"}
CHECKPOINT_CHOICE = "oracle, chosen on the test set"
"""Both files are written whenever the debiased network reaches its best accuracy on the test set so far."""


@dataclass(frozen=True)
class ReferenceDataset:
    """Network and test preprocessing that the authors' code uses for one dataset.

    Attributes:
        class_names: Names of the classes in the order of their numbers.
        backbone: `"mlp"` or `"resnet18"`.
        image_size: Height and width in pixels.
        transform: Normalisation of pixels.
    """

    class_names: tuple[str, ...]
    backbone: str = "resnet18"
    image_size: int = 224
    # The statistics of CIFAR-10, for photographs too.
    transform: ImageTransform = ImageTransform((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


# The files hold no class names. Those of Dogs & Cats are in alphabetical order, which nothing published confirms.
DATASETS = {
    "cmnist": ReferenceDataset(
        tuple("0123456789"),
        "mlp",
        28,
        ImageTransform((0.0,) * 3, (255.0,) * 3),  # the MLP divides by 255 once more
    ),
    "bffhq": ReferenceDataset(("young", "old")),
    "dogs_and_cats": ReferenceDataset(("cat", "dog")),
    "bar": ReferenceDataset(("climbing", "diving", "fishing", "racing", "throwing", "pole vaulting")),
}


@dataclass(frozen=True)
class CheckpointFile:
    """One `.th` file.

    Attributes:
        path: Where it is.
        sha256: Of its bytes.
        step: Training step that it names, counted from 0; `None` if it names none.
        weights: Tensors by the authors' names, without a `module.` in front, float32 (batch counts: int64).
        converted_from: Types of the numbers, where they had to be converted to float32.
    """

    path: Path
    sha256: str
    step: int | None
    weights: dict[str, torch.Tensor] = field(repr=False)
    converted_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """A classifier from the authors' files, its preprocessing, and the files it was made of."""

    model: DebiasedImageClassifier
    transform: ImageTransform
    image_size: int
    files: tuple[CheckpointFile, ...]


def load_reference_checkpoint(
    folder: str | Path, method: str | None, dataset: str | None, which: str = "debiased"
) -> ReferenceCheckpoint:
    """Opens a folder that the authors' code wrote.

    Args:
        folder (`str` or `Path`): Folder of `best_model_d.th` and `best_model_b.th`. LfF needs only the one asked for.
        method (`str`): `"lff"` or `"disent"`, with or without BiasEnsemble.
        dataset (`str`): `"cmnist"`, `"bffhq"`, `"dogs_and_cats"` or `"bar"`. Class names follow it; that cat is class
            0 of Dogs & Cats, and dog class 1, is a guess.
        which (`str`, *optional*, defaults to `"debiased"`): `"debiased"` or `"biased"`. For DisEnt this is the head on
            both encoders' features.

    Returns:
        The classifier in evaluation mode with its preprocessing. Its logits are those of the authors' evaluation.

    Raises:
        `BiasEnsembleError`: If a file is missing, damaged, holds anything but numbers, or is of another method,
            dataset or width; if weights are not finite. Code in a file is never run.
    """
    method = _one_of("--method", method, ENCODERS)
    dataset = _one_of("--reference_dataset", dataset, DATASETS)
    which = _one_of("--which", which, FILES)
    setting = DATASETS[dataset]
    config = classifier_config(
        ModelArguments(backbone=setting.backbone, image_size=setting.image_size),
        list(setting.class_names),
        ENCODERS[method],
    )
    model = DebiasedImageClassifier(config)
    sources = tuple(FILES) if method == "disent" else (which,)
    paths = _paths(Path(folder), method, sources)
    files = {source: read_checkpoint_file(path) for source, path in paths.items()}
    for file in files.values():
        _check_fit(file, model, method, dataset)
    if len({file.step for file in files.values()}) > 1:
        found = " and ".join(f"step {file.step} ({file.path.name})" for file in files.values())
        raise BiasEnsembleError(
            f"{folder}: expected two files of one save, found {found}; use files that belong together"
        )
    weights = {}
    # Alone, the encoder is that of the network asked for; in a pair, the intrinsic one comes first.
    for source, place in zip(sources, ("encoder.", "bias_encoder."), strict=False):
        for name, value in _renamed(files[source]).items():
            if name.startswith("encoder.") or source == which:
                weights[name.replace("encoder.", place, 1)] = value
    model.load_state_dict(weights)
    return ReferenceCheckpoint(model.eval(), setting.transform, setting.image_size, tuple(files.values()))


def read_checkpoint_file(path: Path) -> CheckpointFile:
    """Reads one `.th` file as numbers only.

    Raises:
        `BiasEnsembleError`: If the file is damaged, holds code, is laid out otherwise or has weights that are no
            finite numbers.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BiasEnsembleError(f"{path}: expected a readable file, found: {error.strerror}; check it") from error
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for broken files
        code = re.search(r"(?:GLOBAL|global:?)\s+([\w.]+\.\w+)", str(error))
        if code:
            raise BiasEnsembleError(
                f"{path}: expected tensors and plain values only, found a reference to {code[1]}, which could run "
                "code; nothing was run: use the file as the authors' code saved it, from a source you trust"
            ) from error
        raise BiasEnsembleError(
            f"{path}: expected a file of torch.save, found {len(content):,} bytes that do not open (truncated or "
            "another format); copy or download the file again"
        ) from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not weights or not all(map(torch.is_tensor, weights.values())):
        raise BiasEnsembleError(
            f"{path}: expected a dict with steps, state_dict (tensors by name) and optimizer, found "
            f"{_description(checkpoint)}; use a file that save_best of the authors' code wrote"
        )
    prefix = "module." if all(str(name).startswith("module.") for name in weights) else ""  # of DataParallel
    weights = {str(name).removeprefix(prefix): value for name, value in weights.items()}
    no_numbers = [
        name
        for name, value in weights.items()
        if value.layout != torch.strided or not (value.is_floating_point() or name.endswith(".num_batches_tracked"))
    ]
    if no_numbers:
        raise BiasEnsembleError(
            f"{path}: expected dense floating point weights, found {_listed(no_numbers)} of type "
            f"{_type(weights[no_numbers[0]])}; save the network again as float32"
        )
    others = {_type(value) for value in weights.values() if value.is_floating_point() and value.dtype != torch.float32}
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    not_finite = [name for name, value in weights.items() if not value.isfinite().all()]
    if not_finite:
        raise BiasEnsembleError(
            f"{path}: expected finite weights, found NaN or infinity in {_listed(not_finite)}; that training "
            "diverged: use another checkpoint"
        )
    steps = checkpoint.get("steps")
    step = steps if isinstance(steps, int) else None
    return CheckpointFile(path, hashlib.sha256(content).hexdigest(), step, weights, tuple(sorted(others)))


def _paths(folder: Path, method: str, sources: tuple[str, ...]) -> dict[str, Path]:
    expected = " and ".join(FILES[source] for source in sources)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise BiasEnsembleError(f"{folder}: expected a folder with {expected}, found {found}; name the folder")
    paths = {source: folder / FILES[source] for source in sources}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        there = sorted(path.name for path in folder.iterdir())
        why = "; DisEnt needs both files: each holds one encoder and one head" if method == "disent" else ""
        raise BiasEnsembleError(
            f"{folder}: expected {expected}, found no {' and no '.join(missing)} "
            f"(there: {_listed(there) or 'nothing'}){why}; name the result folder of the authors' run"
        )
    return paths


def _check_fit(file: CheckpointFile, model: DebiasedImageClassifier, method: str, dataset: str) -> None:
    """Whether the file's network is the one that the authors' code builds for this method and dataset."""
    is_mlp, is_resnet = "feature.0.weight" in file.weights, "conv1.weight" in file.weights
    wants_mlp = model.config.backbone == "mlp"
    if is_mlp != is_resnet and is_mlp != wants_mlp:
        found, others = ("the MLP", "cmnist") if is_mlp else ("a ResNet", "bffhq, dogs_and_cats or bar")
        raise BiasEnsembleError(
            f"{file.path}: expected {'the MLP' if wants_mlp else 'a ResNet18'} for --reference_dataset {dataset}, "
            f"found {found}; for this file --reference_dataset is {others}"
        )
    weights = _renamed(file)
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith("bias_encoder.")}
    misfits = {"no": wanted.keys() - weights.keys(), "the unknown": weights.keys() - wanted.keys()}
    if any(misfits.values()):
        found = " and ".join(
            f"{what} {_listed([_reference_name(name, file) for name in (*wanted, *weights) if name in names])}"
            for what, names in misfits.items()
            if names
        )
        raise BiasEnsembleError(
            f"{file.path}: expected the weights of the authors' {'MLP' if wants_mlp else 'ResNet18'}, found {found}; "
            "use a checkpoint of their networks"
        )
    shapes = {name: (tuple(value.shape), tuple(weights[name].shape)) for name, value in wanted.items()}
    weight, bias = shapes.pop("classifier.weight"), shapes.pop("classifier.bias")
    for name, (expected, given) in shapes.items():
        if expected != given:
            raise BiasEnsembleError(
                f"{file.path}: expected {_reference_name(name, file)} of shape {expected} for --reference_dataset "
                f"{dataset}, found {given}; only the authors' widths and image sizes can be imported"
            )
    features, width = model.classifier.in_features, model.classifier.in_features // ENCODERS[method]
    fitting = [name for name, encoders in ENCODERS.items() if weight[1][1:] == (encoders * width,) and name != method]
    if fitting:
        raise BiasEnsembleError(
            f"{file.path}: expected a head on {features} features (--method {method}), found one on "
            f"{weight[1][1]}; use --method {fitting[0]}"
        )
    if weight[0] != weight[1] or bias[0] != bias[1]:
        fits = [
            name
            for name, other in DATASETS.items()
            if len(other.class_names) == weight[1][0] and other.backbone == model.config.backbone and name != dataset
        ]
        raise BiasEnsembleError(
            f"{file.path}: expected a head of {model.config.num_labels} classes on {features} features for "
            f"--reference_dataset {dataset}, found weights {weight[1]} and bias {bias[1]}; "
            + (f"try --reference_dataset {' or '.join(fits)}" if fits else "no dataset of the authors has that")
        )


def _names(file: CheckpointFile) -> list[tuple[str, str]]:
    """How names begin in the file and in a [`DebiasedImageClassifier`]. The head is `fc`, in the MLP of LfF
    `classifier`; only the MLP has `feature`."""
    head = "classifier." if "classifier.weight" in file.weights else "fc."
    return [(head, "classifier."), ("feature.", "encoder.layers."), ("", "encoder.")]


def _renamed(file: CheckpointFile) -> dict[str, torch.Tensor]:
    """The weights by the names of a [`DebiasedImageClassifier`], without the MLP's unused projection."""
    found = {}
    for name, value in file.weights.items():
        if not name.startswith("proj."):
            theirs, ours = next(pair for pair in _names(file) if name.startswith(pair[0]))
            found[ours + name.removeprefix(theirs)] = value
    return found


def _reference_name(name: str, file: CheckpointFile) -> str:
    """The authors' name of a weight."""
    theirs, ours = next(pair for pair in _names(file) if name.startswith(pair[1]))
    return theirs + name.removeprefix(ours)


def _one_of(option: str, value: str | None, known: dict[str, Any]) -> str:
    if value not in known:
        raise BiasEnsembleError(f"{option}: expected one of {', '.join(known)}, found {value or 'nothing'}")
    return str(value)


def _listed(names: list[str], limit: int = 4) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _type(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _description(value: Any) -> str:
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    return f"a dict of {_listed([str(key) for key in value])}" if value else "an empty dict"
