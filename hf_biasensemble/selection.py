"""What the biased members predict for the training data, as a table that outlives the run."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.tables import load_table, save_table

FILE_NAME = "selection.parquet"
PSEUDO_GROUPS = ("selected", "predicted")
DENSE_CLASSES = 100
"""With at most this many classes, a selection keeps the members' probabilities of all; with more, of `TOP_CLASSES`."""
TOP_CLASSES = 10

_COLUMNS = {
    "index": "index",
    "labels": "label",
    "bias_labels": "bias_label",
    "is_conflicting": "is_conflicting",
    "votes": "votes",
    "mean_probability": "mean_probability",
    "is_selected": "is_selected",
    "predicted_labels": "predicted_label",
    "agreeing_members": "agreeing_members",
    "lowest_probability": "lowest_probability",
    "probabilities": "probabilities",
    "probability_classes": "probability_classes",
}


@dataclass(frozen=True)
class Selection:
    """What the biased members predict for each training sample.

    Attributes:
        index: int64 (N,), row of each sample in the training split as loaded.
        labels: int64 (N,).
        votes: int64 (N,), members that give the true class a probability above the threshold.
        mean_probability: float32 (N,), mean over the members of the probability of the true class.
        is_selected: bool (N,), whether the sample is in the bias-amplified set D_A.
        provenance: What the selection depends on: data fingerprint, member settings, seed. Reused only when equal.
        bias_labels, is_conflicting: For measuring, where known.
        predicted_labels: int64 (N,), class with the highest mean probability over the members. This and all below are
            `None` where the saved table is older than they are.
        agreeing_members: int64 (N,), members that find that class the most probable.
        lowest_probability: float32 (N,), lowest probability that a member gives that class.
        probabilities: float16 (N, K), mean probability of each class over the members; of more than `DENSE_CLASSES`
            classes, (N, `TOP_CLASSES`) of the most probable ones.
        probability_classes: int32 (N, `TOP_CLASSES`), which classes these are; `None` if all are kept.
    """

    index: np.ndarray
    labels: np.ndarray
    votes: np.ndarray
    mean_probability: np.ndarray
    is_selected: np.ndarray
    provenance: dict
    bias_labels: np.ndarray | None = None
    is_conflicting: np.ndarray | None = None
    predicted_labels: np.ndarray | None = None
    agreeing_members: np.ndarray | None = None
    lowest_probability: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    probability_classes: np.ndarray | None = None

    @classmethod
    def from_votes(
        cls,
        member_probabilities: np.ndarray,
        index: np.ndarray,
        labels: np.ndarray,
        threshold: float,
        agreement: int,
        provenance: dict | None = None,
        keep: float | None = None,
        **columns: np.ndarray | None,
    ) -> "Selection":
        """Counts the votes (https://huggingface.co/papers/2205.14594, section on BiasEnsemble).

        Args:
            member_probabilities (`np.ndarray` of shape (M, N)): Probability of the true class, in [0, 1].
            index (`np.ndarray` of shape (N,)): Row of each sample in the training split.
            labels (`np.ndarray` of shape (N,)): True classes.
            threshold (`float`): A member votes for a sample above this probability, in [0, 1).
            agreement (`int`): Votes that put a sample into the bias-amplified set, 1 to M.
            provenance (`dict`, *optional*): What the probabilities depend on.
            keep (`float`, *optional*): In place of votes, the fraction of each class with the highest mean probability
                makes up the bias-amplified set, in (0, 1); see [`top_of_each_class`].
            columns (`np.ndarray`, *optional*): Further attributes.
        """
        votes = (member_probabilities > threshold).sum(axis=0)
        mean = member_probabilities.mean(axis=0).astype(np.float32)
        selected = votes >= agreement if keep is None else top_of_each_class(mean, labels, keep)
        return cls(index, labels, votes, mean, selected, provenance or {}, **columns)

    def check(self, class_names: list[str]) -> None:
        """Raises `BiasEnsembleError` if the bias-amplified set is empty or lacks a class."""
        kept = np.bincount(self.labels[self.is_selected], minlength=len(class_names))
        lacking = [class_names[number] for number in np.flatnonzero(kept == 0)]
        if lacking:
            what = "is empty" if not kept.any() else f"has no sample of {', '.join(lacking)}"
            raise BiasEnsembleError(
                f"the bias-amplified set {what} ({kept.sum()} of {len(self.index)} samples kept): too few members are "
                "sure of them; keep a fraction of each class (--member_keep 0.8), lower --member_threshold or "
                "--member_agreement, or raise --member_steps"
            )

    @property
    def num_members(self) -> int:
        """Members that voted; if `provenance` does not say, the most votes that any sample got."""
        return self.provenance.get("num_members") or int(self.votes.max(initial=0))

    def by_row(self, values: np.ndarray, num_rows: int) -> np.ndarray:
        """Values (num_rows, ...) by row of the training split, from those of the samples (N, ...); else 0."""
        rows = np.zeros((num_rows, *values.shape[1:]), values.dtype)
        rows[self.index] = values
        return rows

    def mask(self, num_rows: int) -> np.ndarray:
        """bool (num_rows,): whether each row of the training split is in the bias-amplified set."""
        return self.by_row(self.is_selected, num_rows)

    def pseudo_groups(self, by: str, num_rows: int) -> tuple[np.ndarray, int]:
        """Groups of training samples that stand in for those of class and bias, which are unknown.

        Args:
            by (`str`): With `"predicted"`, the samples of a class are grouped by the class that the members predict;
                with `"selected"`, by whether they are in the bias-amplified set.
            num_rows (`int`): Rows of the training split.

        Returns:
            int64 (num_rows,), the group of each row, and the number of groups. None is empty. Rows without votes are
            in group 0.

        Raises:
            `BiasEnsembleError`: If the saved table does not say what the members predict.
        """
        opinion = self.is_selected if by == "selected" else self.predicted_labels
        if opinion is None:
            raise outdated("--pseudo_groups predicted", "what the members predict")
        opinion = opinion.astype(np.int64)
        cells, group = np.unique(self.labels * (opinion.max() + 1) + opinion, return_inverse=True)
        return self.by_row(group, num_rows), len(cells)

    def summary(self) -> dict[str, float]:
        """`selection_size` and, where bias labels exist, how much of the aligned samples the set holds
        (`selection_aligned_recall`) and how much of the conflicting ones it wrongly holds
        (`selection_conflicting_leak`)."""
        summary: dict[str, float] = {"selection_size": int(self.is_selected.sum())}
        if self.is_conflicting is not None:
            known = True if self.bias_labels is None else self.bias_labels >= 0
            for name, group in (
                ("selection_aligned_recall", ~self.is_conflicting & known),
                ("selection_conflicting_leak", self.is_conflicting),
            ):
                if group.any():
                    summary[name] = float(self.is_selected[group].mean())
        return summary

    def save(self, folder: str | Path) -> Path:
        """Writes `selection.parquet` into the folder, complete or not at all."""
        columns = {column: getattr(self, name) for name, column in _COLUMNS.items()}
        return save_table(Path(folder) / FILE_NAME, columns, self.provenance)

    @classmethod
    def load(cls, folder: str | Path) -> "Selection":
        """Reads what [`~Selection.save`] wrote.

        Raises:
            `BiasEnsembleError`: If there is no readable selection in the folder.
        """

        def build(columns: dict[str, np.ndarray], provenance: dict) -> "Selection":
            optional = {field.name for field in fields(cls) if field.default is None}
            found = {name: columns.get(key) if name in optional else columns[key] for name, key in _COLUMNS.items()}
            return cls(**found, provenance=provenance)  # type: ignore[arg-type]

        return load_table(Path(folder) / FILE_NAME, "a selection", "remove the file to make it again", build)


def top_of_each_class(values: np.ndarray, labels: np.ndarray, fraction: float) -> np.ndarray:
    """bool (N,): whether a sample is among this fraction of its class with the highest values, at least one sample.

    Args:
        values (`np.ndarray` of shape (N,)): The higher, the sooner; of equal ones the first.
        labels (`np.ndarray` of shape (N,)): Classes.
        fraction (`float`): In (0, 1].
    """
    order = np.lexsort((-values, labels))
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - (sizes.cumsum() - sizes)[labels[order]]
    return rank < np.maximum(1, np.round(fraction * sizes))[labels]


def outdated(option: str, lacking: str) -> BiasEnsembleError:
    """The error where a saved selection lacks what an option or method needs."""
    return BiasEnsembleError(
        f"{option}: expected a selection that says {lacking}, found an older one; remove its {FILE_NAME} to "
        "make it again"
    )
