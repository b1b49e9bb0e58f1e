"""A model's predictions for held-out images, with the pseudo-groups that judge them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

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
    """Predictions of a model for images that neither it nor the members were trained on."""

    index: np.ndarray  # int64 (R,): row of each image in its split as loaded
    predictions: np.ndarray  # int64 (R,)
    probabilities: np.ndarray  # float32 (R,), of the true class
    groups: PseudoGroups

    @classmethod
    def from_logits(
        cls, blocks: Iterable[np.ndarray], split: ImageSplit, groups: PseudoGroups | None = None
    ) -> "HeldOutPredictions":
        """Takes logits (n, K) of consecutive blocks of the split, one in memory at a time, and its pseudo-groups."""
        labels = split.labels[split.rows].numpy()

        def in_parts() -> Iterator[dict[str, np.ndarray]]:
            done = 0
            for logits in blocks:
                probabilities = true_class_probabilities(logits, labels[done : done + len(logits)])
                yield {"predictions": logits.argmax(axis=1), "probabilities": probabilities}
                done += len(logits)

        if groups is None:
            groups = PseudoGroups.unjudged(labels, len(split.class_names))
        return cls(split.rows.numpy(), **joined(in_parts(), len(labels)), groups=groups)

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
        """Predicts with any image classifier, called `name` in errors; classes are matched by name."""
        check_input(split, transform)
        parts = in_blocks(split, model.config.num_labels, batch_size)
        logits = ((part, predict_logits(model, part, transform, batch_size)) for part in parts)
        blocks = (to_classes_of(part, model, found, name).cpu().numpy() for part, found in logits)
        return cls.from_logits(blocks, split, groups)

    def is_about(self, others: "HeldOutPredictions") -> bool:
        """Whether both predict the same images, in the same order."""
        same_labels = np.array_equal(self.groups.labels, others.groups.labels)
        return same_labels and np.array_equal(self.index, others.index)

    def comparable(self, other: "HeldOutPredictions | None") -> "HeldOutPredictions | None":
        """The other model with this one's groups if it predicts the same images, else `None`."""
        return replace(other, groups=self.groups) if other is not None and self.is_about(other) else None

    @property
    def correct(self) -> np.ndarray:
        """float64 (R,): 1 where the prediction is correct."""
        return (self.predictions == self.groups.labels).astype(np.float64)

    def estimates(self) -> dict[str, float]:
        """Estimated accuracy and probability by group; empty if there is a doubt."""
        return {} if self.groups.doubt() else estimates(self.probabilities, self.predictions, self.groups)

    def intervals(self) -> dict[str, Estimate]:
        """Estimated accuracy by group, with intervals; empty if there is a doubt."""
        return {} if self.groups.doubt() else estimated_intervals(self.correct, self.groups)

    def save(self, folder: str | Path, split: str) -> Path:
        """Writes `judging/{split}.parquet` into the folder of a run."""
        columns = {
            "index": self.index,
            "label": self.groups.labels,
            "prediction": self.predictions,
            "true_class_probability": self.probabilities,
        }
        stated: dict[str, Any] = {"num_classes": self.groups.num_classes}
        if self.groups.members:
            columns["member_prediction"] = self.groups.predicted
            columns["member_label_probability"] = self.groups.label_probability
            stated["members"] = self.groups.members
        return save_table(Path(folder) / FOLDER / f"{split}.parquet", columns, stated)

    @classmethod
    def load(cls, folder: str | Path, split: str) -> "HeldOutPredictions":
        """Reads what [`~HeldOutPredictions.save`] wrote."""

        def build(columns: dict[str, np.ndarray], stated: dict[str, Any]) -> "HeldOutPredictions":
            groups = PseudoGroups.unjudged(columns["label"], int(stated["num_classes"]))
            if "members" in stated:
                predicted, probability = columns["member_prediction"], columns["member_label_probability"]
                groups = replace(groups, predicted=predicted, label_probability=probability, members=stated["members"])
            return cls(columns["index"], columns["prediction"], columns["true_class_probability"], groups)

        path = Path(folder) / FOLDER / f"{split}.parquet"
        return load_table(path, "predictions", "run the training again", build)


def gain(models: Sequence[HeldOutPredictions], others: Sequence[HeldOutPredictions]) -> dict[str, Estimate]:
    """Difference in accuracy between two models by group, in [-1, 1]; empty if there is a doubt.

    Both are given seed by seed, on the same images, and judged by the groups of the first. Seeds are averaged for each
    image, since their predictions for the same image are not independent evidence.
    """
    if any(model.groups.doubt() for model in models):
        return {}
    _, rows = np.unique(np.concatenate([model.index for model in models]), return_inverse=True)
    better = np.concatenate([model.correct - other.correct for model, other in zip(models, others, strict=True)])
    found = {}
    by_seed = [group_weights(model.groups, FEWEST_OF_CLASS) for model in models]
    for name in by_seed[0]:
        if all(name in weights for weights in by_seed):
            weights = np.concatenate([weights[name] for weights in by_seed]) / len(models)
            by_image = (np.bincount(rows, weights=values) for values in (weights * better, weights))
            found[name] = paired_difference(*by_image)
    return found


def pooled(parts: Sequence[HeldOutPredictions]) -> HeldOutPredictions:
    """Concatenates predictions for several parts of the images, such as folds."""
    judges = [part.groups.members for part in parts]
    groups = PseudoGroups.joined([part.groups for part in parts], " ".join(judges) if all(judges) else "")
    index, predictions, probabilities = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("index", "predictions", "probabilities")
    )
    return HeldOutPredictions(index, predictions, probabilities, groups)


def true_class_probabilities(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Softmax probability (R,) of the true class, float32, from logits (R, K)."""
    of_classes = log_softmax(logits.astype(np.float64), axis=1)
    return np.exp(np.take_along_axis(of_classes, np.asarray(labels)[:, None], axis=1)[:, 0]).astype(np.float32)
