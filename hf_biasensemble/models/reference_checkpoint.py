"""Opens checkpoints of the authors' code (https://github.com/kakaoenterprise/BiasEnsemble) as classifiers.

That code writes `best_model_d.th` (debiased network) and `best_model_b.th` (biased network) into one folder. With
DisEnt, each file holds one encoder and one head; both heads read the intrinsic features (encoder of `best_model_d.th`)
followed by the bias features (encoder of `best_model_b.th`).
"""

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.internal.errors import BiasEnsembleError, require
from hf_biasensemble.models.build import classifier_config
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier
from hf_biasensemble.models.weights import misfits

ENCODERS = {"lff": 1, "disent": 2}
FILES = {"debiased": "best_model_d.th", "biased": "best_model_b.th"}
CHECKPOINT_CHOICE = "oracle, chosen on the test set"
"""The authors' code saves both files whenever the debiased network reaches a new best test accuracy."""


@dataclass(frozen=True)
class ReferenceDataset:
    """Classes, network and test preprocessing of a dataset in the authors' code."""

    class_names: tuple[str, ...]
    backbone: str = "resnet18"
    image_size: int = 224
    transform: ImageTransform = ImageTransform((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # of CIFAR-10


_DIVIDED_TWICE = ImageTransform((0.0,) * 3, (255.0,) * 3)  # the authors' MLP divides by 255 again
# The files hold no class names. That cat is class 0 of Dogs & Cats, and dog class 1, is a guess.
DATASETS = {
    "cmnist": ReferenceDataset(tuple("0123456789"), "mlp", 28, _DIVIDED_TWICE),
    "bffhq": ReferenceDataset(("young", "old")),
    "dogs_and_cats": ReferenceDataset(("cat", "dog")),
    "bar": ReferenceDataset(("climbing", "diving", "fishing", "racing", "throwing", "pole vaulting")),
}


@dataclass(frozen=True)
class CheckpointFile:
    """A `.th` file. `step` counts from 0; `weights` are float32, by the authors' names without `module.`."""

    path: Path
    sha256: str
    step: int | None
    weights: dict[str, torch.Tensor] = field(repr=False)
    converted_from: tuple[str, ...]


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """A classifier from the authors' files, with its preprocessing."""

    model: DebiasedImageClassifier
    transform: ImageTransform
    image_size: int
    files: tuple[CheckpointFile, ...]


def load_reference_checkpoint(
    folder: str | Path, method: str | None, dataset: str | None, which: str = "debiased"
) -> ReferenceCheckpoint:
    """Opens a folder that the authors' code wrote as a classifier in evaluation mode, with the logits of the authors'
    evaluation. `which` is the network of LfF or, with DisEnt, the head. Code in a file never runs."""
    given = {"--method": method, "--reference_dataset": dataset, "--which": which}
    for (option, value), known in zip(given.items(), (list(ENCODERS), list(DATASETS), list(FILES)), strict=True):
        require(value in known, option, f"one of {', '.join(known)}", value or "nothing")
    method, dataset = str(method), str(dataset)
    model, setting = _network(method, dataset), DATASETS[dataset]
    files = _read_files(Path(folder), list(FILES) if method == "disent" else [which])
    for file in files.values():
        _check_fit(file, model, method, dataset)
    if len({file.step for file in files.values()}) > 1:
        found = " and ".join(f"step {file.step} ({file.path.name})" for file in files.values())
        raise BiasEnsembleError(
            f"{folder}: expected two files saved at the same step, found {found}; use files that belong together"
        )
    weights = {}
    for name in model.state_dict():  # with DisEnt, the bias encoder is that of the biased network
        source = "biased" if name.startswith("bias_encoder.") else "debiased"
        file = files[source if method == "disent" and "encoder." in name else which]
        weights[name] = file.weights[_reference_name(name, file)]
    model.load_state_dict(weights)
    return ReferenceCheckpoint(model.eval(), setting.transform, setting.image_size, tuple(files.values()))


def _network(method: str, dataset: str) -> DebiasedImageClassifier:
    setting = DATASETS[dataset]
    model_args = ModelArguments(backbone=setting.backbone, image_size=setting.image_size)
    return DebiasedImageClassifier(classifier_config(model_args, list(setting.class_names), ENCODERS[method]))


def _read_files(folder: Path, sources: list[str]) -> dict[str, CheckpointFile]:
    names = [FILES[source] for source in sources]
    if missing := [name for name in names if not (folder / name).is_file()]:
        present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        why = "; DisEnt needs both files: each holds one encoder and one head" if len(names) > 1 else ""
        raise BiasEnsembleError(
            f"{folder}: expected a folder with {' and '.join(names)}, found no {' and no '.join(missing)} (there: "
            f"{_listed(present) or 'nothing'}){why}; name the result folder of the authors' run"
        )
    return {source: _read_file(folder / FILES[source]) for source in sources}


def _read_file(path: Path) -> CheckpointFile:
    """Reads a `.th` file as tensors and plain values only."""
    try:
        content = path.read_bytes()
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for broken files
        code = re.search(r"(?:GLOBAL|global:?)\s+([\w.]+\.\w+)", str(error))
        if code:
            raise BiasEnsembleError(
                f"{path}: expected tensors and plain values only, found a reference to {code[1]}, which could run "
                "code; nothing was run. Use the file as saved by the authors' code, from a source that you trust"
            ) from error
        raise BiasEnsembleError(
            f"{path}: expected a readable file of torch.save, found one that does not open (truncated or another "
            "format); copy or download the file again"
        ) from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not weights or not all(map(torch.is_tensor, weights.values())):
        kind = type(checkpoint).__name__
        found = f"a dict of {_listed(checkpoint) or 'nothing'}" if isinstance(checkpoint, dict) else kind
        raise BiasEnsembleError(
            f"{path}: expected a dict with steps, state_dict (tensors by name) and optimizer, found {found}; use a "
            "file written by save_best of the authors' code"
        )
    prefix = "module." if all(str(name).startswith("module.") for name in weights) else ""  # from DataParallel
    weights = {str(name).removeprefix(prefix): value for name, value in weights.items()}
    numbers = {name: value for name, value in weights.items() if not name.endswith(".num_batches_tracked")}
    others = {str(value.dtype).removeprefix("torch.") for value in numbers.values() if value.dtype != torch.float32}
    bad = [name for name, value in numbers.items() if not value.is_floating_point() or not value.isfinite().all()]
    if bad:
        raise BiasEnsembleError(
            f"{path}: expected finite floating point weights, found {_listed(bad)} of type {numbers[bad[0]].dtype}, "
            "not finite or not floating point; use another checkpoint if that training diverged"
        )
    weights |= {name: value.float() for name, value in numbers.items()}
    steps = checkpoint.get("steps")
    step = steps if isinstance(steps, int) else None
    return CheckpointFile(path, hashlib.sha256(content).hexdigest(), step, weights, tuple(sorted(others)))


def _check_fit(file: CheckpointFile, model: DebiasedImageClassifier, method: str, dataset: str) -> None:
    """Refuses a file of another network than the authors' code builds for this method and dataset."""
    different = _misfits(file, model)
    if not different:
        return
    fitting = [
        f"--method {other} --reference_dataset {name}"
        for other in ENCODERS
        for name in DATASETS
        if not _misfits(file, _network(other, name))
    ]
    description = f"another: {different}; only the authors' networks and image sizes can be imported"
    if fitting:
        description = f"that of {' or '.join(fitting)}; use these options"
    raise BiasEnsembleError(
        f"{file.path}: expected the network of --method {method} --reference_dataset {dataset}, found {description}"
    )


def _misfits(file: CheckpointFile, model: DebiasedImageClassifier) -> str:
    """[`misfits`] of the file and the encoder and head of the model, by the authors' names."""
    found = {name: value for name, value in file.weights.items() if not name.startswith("proj.")}
    wanted = {name: value for name, value in model.state_dict().items() if not name.startswith("bias_encoder.")}
    return misfits(found, {_reference_name(name, file): value for name, value in wanted.items()})


def _reference_name(name: str, file: CheckpointFile) -> str:
    """The authors' name of a weight. Their head is `classifier` in the MLP of LfF and `fc` elsewhere."""
    head = "classifier." if "classifier.weight" in file.weights else "fc."
    name = name.removeprefix("bias_").replace("encoder.layers.", "feature.").removeprefix("encoder.")
    return name.replace("classifier.", head)


def _listed(names: Iterable[Any]) -> str:
    names = list(map(str, names))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
