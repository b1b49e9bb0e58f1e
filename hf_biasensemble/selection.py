"""The members' predictions for the training data and the bias-amplified set, saved as a table."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.tables import load_table, save_table

FILE_NAME = "selection.parquet"
DENSE_CLASSES = 100
"""With more classes than this, a selection only keeps the probabilities of the `TOP_CLASSES` most probable ones."""
TOP_CLASSES = 10

_ATTRIBUTES = (
    *("index", "labels", "bias_labels", "is_conflicting", "votes", "mean_probability", "is_selected"),
    *("predicted_labels", "agreeing_members", "lowest_probability", "probabilities", "probability_classes"),
)
_COLUMNS = {name: name.replace("labels", "label") for name in _ATTRIBUTES}


@dataclass(frozen=True)
class Selection:
    """Votes and predictions of the biased members for each training sample.

    Attributes:
        index: int64 (N,), row of each sample in the training split as loaded.
        labels: int64 (N,), true classes.
        votes: int64 (N,), number of members with a probability of the true class above the threshold.
        mean_probability: float32 (N,), mean of these probabilities.
        is_selected: bool (N,), whether the sample is in the bias-amplified set D_A.
        provenance: What the selection depends on: data fingerprint, member settings, seed. It is reused only if equal.
        bias_labels: int64 (N,), if known; for evaluation only.
        is_conflicting: bool (N,), if known; for evaluation only.
        predicted_labels: int64 (N,), class with the highest mean probability. Like the attributes below, `None` in
            tables of older versions.
        agreeing_members: int64 (N,), number of members that predict that class.
        lowest_probability: float32 (N,), lowest probability of that class by any member.
        probabilities: float16 (N, K), mean probabilities of the classes; with more than `DENSE_CLASSES` classes,
            (N, `TOP_CLASSES`), those of the most probable ones.
        probability_classes: int32 (N, `TOP_CLASSES`), these classes; `None` if all are stored.
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
            threshold (`float`): Probability above which a member votes for a sample, in [0, 1).
            agreement (`int`): Votes that put a sample into the bias-amplified set, 1 to M.
            provenance (`dict`, *optional*): What the probabilities depend on.
            keep (`float`, *optional*): Ignores the votes and selects this fraction of each class, in (0, 1), with the
                highest mean probability.
            columns (`np.ndarray`, *optional*): Further attributes.
        """
        votes = (member_probabilities > threshold).sum(axis=0)
        mean = member_probabilities.mean(axis=0).astype(np.float32)
        selected = votes >= agreement if keep is None else top_of_each_class(mean, labels, keep)
        return cls(index, labels, votes, mean, selected, provenance or {}, **columns)

    def check(self, class_names: list[str]) -> None:
        """Raises `BiasEnsembleError` if the bias-amplified set is empty or lacks a class."""
        kept = np.bincount(self.labels[self.is_selected], minlength=len(class_names))
        if lacking := [class_names[number] for number in np.flatnonzero(kept == 0)]:
            what = f"has no sample of {', '.join(lacking)}" if kept.any() else "is empty"
            raise BiasEnsembleError(
                f"the bias-amplified set {what} ({kept.sum()} of {len(self.index)} samples kept): too few members are "
                "confident about them; keep a fraction of each class (--member_keep 0.8), lower --member_threshold or "
                "--member_agreement, or raise --member_steps"
            )

    @property
    def num_members(self) -> int:
        """Number of members by `provenance`, or else the highest number of votes."""
        return self.provenance.get("num_members") or int(self.votes.max(initial=0))

    def by_row(self, values: np.ndarray, num_rows: int) -> np.ndarray:
        """Scatters values (N, ...) of the samples to the rows of the training split (num_rows, ...); 0 elsewhere."""
        rows = np.zeros((num_rows, *values.shape[1:]), values.dtype)
        rows[self.index] = values
        return rows

    def mask(self, num_rows: int) -> np.ndarray:
        """bool (num_rows,): whether each row of the training split is in the bias-amplified set."""
        return self.by_row(self.is_selected, num_rows)

    def pseudo_groups(self, by: str, num_rows: int) -> tuple[np.ndarray, int]:
        """Groups the training samples, as a substitute for the unknown groups of class and bias.

        Args:
            by (`str`): `"predicted"` groups the samples of a class by the class that the members predict,
                `"selected"` by whether they are in the bias-amplified set.
            num_rows (`int`): Rows of the training split.

        Returns:
            int64 (num_rows,), the group of each row (0 for rows that are not in the selection), and the number of
            groups, none of which is empty.

        Raises:
            `BiasEnsembleError`: If the table is of an older version and lacks the predictions.
        """
        within = self.is_selected if by == "selected" else self.predicted_labels
        if within is None:
            raise outdated("--pseudo_groups predicted", "what the members predict")
        within = within.astype(np.int64)
        cells, group = np.unique(self.labels * (within.max() + 1) + within, return_inverse=True)
        return self.by_row(group, num_rows), len(cells)

    def summary(self) -> dict[str, float]:
        """`selection_size` and, if bias labels exist, the fractions of bias-aligned and bias-conflicting samples that
        are in the set: `selection_aligned_recall` and `selection_conflicting_leak`."""
        summary: dict[str, float] = {"selection_size": int(self.is_selected.sum())}
        if self.is_conflicting is not None:
            known = True if self.bias_labels is None else self.bias_labels >= 0
            aligned = ~self.is_conflicting & known
            groups = {"selection_aligned_recall": aligned, "selection_conflicting_leak": self.is_conflicting}
            summary |= {name: float(self.is_selected[group].mean()) for name, group in groups.items() if group.any()}
        return summary

    def save(self, folder: str | Path) -> Path:
        """Writes `selection.parquet` into the folder, completely or not at all."""
        columns = {column: getattr(self, name) for name, column in _COLUMNS.items()}
        return save_table(Path(folder) / FILE_NAME, columns, self.provenance)

    @classmethod
    def load(cls, folder: str | Path) -> "Selection":
        """Reads a saved selection; raises `BiasEnsembleError` if the folder has none that is readable."""

        def build(columns: dict[str, np.ndarray], provenance: dict) -> "Selection":
            optional = {field.name for field in fields(cls) if field.default is None}
            found = {name: columns.get(key) if name in optional else columns[key] for name, key in _COLUMNS.items()}
            return cls(**found, provenance=provenance)  # type: ignore[arg-type]

        return load_table(Path(folder) / FILE_NAME, "a selection", "remove the file to make it again", build)


def top_of_each_class(values: np.ndarray, labels: np.ndarray, fraction: float) -> np.ndarray:
    """Selects the given fraction, in (0, 1], of each class with the highest values (N,), and at least one sample; the
    first ones among equal values. Returns bool (N,)."""
    order = np.lexsort((-values, labels))
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - (sizes.cumsum() - sizes)[labels[order]]
    return rank < np.maximum(1, np.round(fraction * sizes))[labels]


def outdated(option: str, lacking: str) -> BiasEnsembleError:
    """The error if a saved selection lacks a column that an option or method needs."""
    return BiasEnsembleError(
        f"{option}: expected a selection that says {lacking}, found an older one; remove its {FILE_NAME} to "
        "make it again"
    )
