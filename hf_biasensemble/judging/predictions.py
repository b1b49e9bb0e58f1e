"""What a model says of held-out images, with their pseudo-groups, as a table: all that judging it takes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.evaluation.classifier import check_input, in_blocks, joined, predict_logits, to_classes_of
from hf_biasensemble.internal.tables import load_table, save_table
from hf_biasensemble.judging.estimates import (
    FEWEST_OF_CLASS,
    Estimate,
    estimated_intervals,
    estimates,
    group_weights,
    paired_difference,
)
from hf_biasensemble.judging.pseudo_groups import PseudoGroups

FOLDER = "judging"


@dataclass(frozen=True)
class HeldOutPredictions:
    """Predictions of a model for images that neither it nor the members learned from.

    Attributes:
        index: int64 (R,), row of each image in its split as loaded.
        labels: int64 (R,), classes.
        predictions: int64 (R,), predicted classes.
        probabilities: float32 (R,), that the model gives the true class.
        num_classes: How many classes there are.
        groups: Pseudo-groups of the images, or `None` where no members judged.
    """

    index: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    num_classes: int
    groups: PseudoGroups | None = None

    @classmethod
    def from_logits(
        cls,
        blocks: Iterable[np.ndarray],
        index: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        groups: PseudoGroups | None = None,
    ) -> "HeldOutPredictions":
        """From logits (n, K) of consecutive blocks of the R images, which are needed one at a time."""

        def in_parts() -> Iterator[dict[str, np.ndarray]]:
            done = 0
            for logits in blocks:
                probabilities = true_class_probabilities(logits, labels[done : done + len(logits)])
                yield {"predictions": logits.argmax(axis=1), "probabilities": probabilities}
                done += len(logits)

        return cls(index, labels, **joined(in_parts(), len(labels)), num_classes=num_classes, groups=groups)

    @classmethod
    def of_model(
        cls,
        model: Any,
        split: ImageSplit,
        transform: ImageTransform,
        batch_size: int,
        name: str,
        groups: PseudoGroups | None = None,
    ) -> "HeldOutPredictions":
        """Of any image classifier, whose classes go by name.

        Raises:
            `BiasEnsembleError`: If the model, which is called `name`, has other classes or input than the data.
        """
        check_input(split, transform)
        parts = in_blocks(split, model.config.num_labels, batch_size)
        logits = ((part, predict_logits(model, part, transform, batch_size)) for part in parts)
        blocks = (to_classes_of(part, model, found, name).cpu().numpy() for part, found in logits)
        labels, classes = split.labels[split.rows].numpy(), len(split.class_names)
        return cls.from_logits(blocks, split.rows.numpy(), labels, classes, groups)

    def judged_by(self, groups: PseudoGroups | None) -> "HeldOutPredictions":
        """The same predictions with these groups of the same images."""
        return HeldOutPredictions(
            self.index, self.labels, self.predictions, self.probabilities, self.num_classes, groups
        )

    def is_about(self, others: "HeldOutPredictions") -> bool:
        """Whether both are about the same images, in the same order."""
        return np.array_equal(self.index, others.index) and np.array_equal(self.labels, others.labels)

    @property
    def correct(self) -> np.ndarray:
        """float64 (R,): 1 where the prediction is right."""
        return (self.predictions == self.labels).astype(np.float64)

    def doubt(self) -> str | None:
        """Why nothing can be said of the model on bias-conflicting images; `None` if something can."""
        return "no members of BiasEnsemble are named" if self.groups is None else self.groups.doubt()

    def estimates(self) -> dict[str, float]:
        """[`estimates`] of the model; nothing where there are doubts."""
        if self.groups is None or self.doubt():
            return {}
        return estimates(self.probabilities, self.predictions, self.groups)

    def intervals(self) -> dict[str, Estimate]:
        """Estimated accuracy by group, with intervals; nothing where there are doubts."""
        return {} if self.groups is None or self.doubt() else estimated_intervals(self.correct, self.groups)

    def save(self, folder: str | Path, split: str) -> Path:
        """Writes `judging/{split}.parquet` into the folder of a run, complete or not at all."""
        columns = {
            "index": self.index,
            "label": self.labels,
            "prediction": self.predictions,
            "true_class_probability": self.probabilities,
        }
        stated: dict[str, Any] = {"num_classes": self.num_classes}
        if self.groups is not None:
            columns |= self.groups.columns()
            stated["members"] = self.groups.members
        return save_table(Path(folder) / FOLDER / f"{split}.parquet", columns, stated)

    @classmethod
    def load(cls, folder: str | Path, split: str) -> "HeldOutPredictions":
        """Reads what [`~HeldOutPredictions.save`] wrote.

        Raises:
            `BiasEnsembleError`: If there is no readable table in the folder.
        """

        def build(columns: dict[str, np.ndarray], stated: dict[str, Any]) -> "HeldOutPredictions":
            labels, num_classes = columns["label"], int(stated["num_classes"])
            groups = None
            if "members" in stated:
                predicted, probability = columns["member_prediction"], columns["member_label_probability"]
                groups = PseudoGroups(labels, predicted, probability, num_classes, stated["members"])
            predictions, probabilities = columns["prediction"], columns["true_class_probability"]
            return cls(columns["index"], labels, predictions, probabilities, num_classes, groups)

        path = Path(folder) / FOLDER / f"{split}.parquet"
        return load_table(path, "predictions", "run the training again", build)


def gain(models: Sequence[HeldOutPredictions], others: Sequence[HeldOutPredictions]) -> dict[str, Estimate]:
    """By how much the accuracy of models exceeds that of others, by group, in [-1, 1]; nothing where there are doubts.

    Chance is in the choice of the images: several seeds are averaged for each image first, since what seeds do on the
    same image is no independent evidence.

    Args:
        models: One table per seed, with groups, by which both are judged.
        others: Tables of the other model, seed by seed on the same images.
    """
    if any(model.doubt() for model in models):
        return {}
    images, rows = np.unique(np.concatenate([model.index for model in models]), return_inverse=True)
    better = np.concatenate([model.correct - other.correct for model, other in zip(models, others, strict=True)])
    found = {}
    by_seed = [group_weights(model.groups, FEWEST_OF_CLASS) for model in models if model.groups is not None]
    for name in by_seed[0]:
        if all(name in weights for weights in by_seed):
            weights = np.concatenate([weights[name] for weights in by_seed]) / len(models)
            of_image = [
                np.bincount(rows, weights=values, minlength=len(images)) for values in (weights * better, weights)
            ]
            found[name] = paired_difference(*of_image)
    return found


def pooled(parts: Sequence[HeldOutPredictions]) -> HeldOutPredictions:
    """Predictions of several parts of the images, such as folds, as one."""
    groups, num_classes = None, parts[0].num_classes
    of_parts = [part.groups for part in parts if part.groups is not None]
    if len(of_parts) == len(parts):
        groups = PseudoGroups.joined(of_parts, " ".join(part.members for part in of_parts))
    index, labels, predictions, probabilities = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("index", "labels", "predictions", "probabilities")
    )
    return HeldOutPredictions(index, labels, predictions, probabilities, num_classes, groups)


def true_class_probabilities(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Softmax probability (R,) of the true class, float32, from logits (R, K)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    of_labels = np.take_along_axis(shifted, np.asarray(labels)[:, None], axis=1)[:, 0]
    return np.exp(of_labels - np.log(np.exp(shifted).sum(axis=1))).astype(np.float32)
