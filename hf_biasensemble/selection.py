"""What the biased members say of the training data: the bias-amplified set, as a table that outlives the run."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.files import written_whole

FILE_NAME = "selection.parquet"
PSEUDO_GROUPS = ("selected", "predicted")
_METADATA_KEY = b"hf_biasensemble"


@dataclass(frozen=True)
class Selection:
    """Votes of the biased members on each training sample.

    Attributes:
        index: int64 (N,), row of each sample in the training split as loaded.
        labels: int64 (N,).
        votes: int64 (N,), members that give the true class a probability above the threshold.
        mean_probability: float32 (N,), mean over the members of the probability of the true class.
        is_selected: bool (N,), whether the sample is in the bias-amplified set D_A.
        provenance: What the selection depends on: data fingerprint, member settings, seed. Reused only when equal.
        bias_labels, is_conflicting: For measuring, where known.
        predicted_labels: int64 (N,), class with the highest mean probability over the members. This and the two below
            are `None` where the saved table is older than they are.
        agreeing_members: int64 (N,), members that hold that class to be the most probable.
        lowest_probability: float32 (N,), lowest probability that a member gives that class.
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

    @classmethod
    def from_votes(
        cls,
        probabilities: np.ndarray,
        index: np.ndarray,
        labels: np.ndarray,
        threshold: float,
        agreement: int,
        provenance: dict | None = None,
        bias_labels: np.ndarray | None = None,
        is_conflicting: np.ndarray | None = None,
        **predictions: np.ndarray,
    ) -> "Selection":
        """Counts the votes (https://huggingface.co/papers/2205.14594, section on BiasEnsemble).

        Args:
            probabilities (`np.ndarray` of shape (M, N)): Each member's probability of the true class, in [0, 1].
            index (`np.ndarray` of shape (N,)): Row of each sample in the training split.
            labels (`np.ndarray` of shape (N,)): True classes.
            threshold (`float`): A member votes for a sample above this probability, in [0, 1).
            agreement (`int`): Votes that put a sample into the bias-amplified set, 1 to M.
            provenance (`dict`, *optional*): What the probabilities depend on.
            bias_labels (`np.ndarray` of shape (N,), *optional*): For measuring.
            is_conflicting (`np.ndarray` of shape (N,), *optional*): For measuring.
            predictions (`np.ndarray` of shape (N,), *optional*): `predicted_labels`, `agreeing_members` and
                `lowest_probability`.
        """
        votes = (probabilities > threshold).sum(axis=0)
        mean_probability = probabilities.mean(axis=0).astype(np.float32)
        return cls(
            index,
            labels,
            votes,
            mean_probability,
            votes >= agreement,
            provenance or {},
            bias_labels,
            is_conflicting,
            **predictions,
        )

    def check(self, class_names: list[str]) -> None:
        """Raises `BiasEnsembleError` if the bias-amplified set is empty or lacks a class."""
        kept = np.bincount(self.labels[self.is_selected], minlength=len(class_names))
        lacking = [class_names[number] for number in np.flatnonzero(kept == 0)]
        if lacking:
            what = "is empty" if not kept.any() else f"has no sample of {', '.join(lacking)}"
            raise BiasEnsembleError(
                f"the bias-amplified set {what} ({kept.sum()} of {len(self.index)} samples kept): the "
                "members are not sure enough; lower --member_threshold or --member_agreement, or raise --member_steps"
            )

    @property
    def num_members(self) -> int:
        """Members that voted; if `provenance` does not say, the most votes that any sample got."""
        return self.provenance.get("num_members") or int(self.votes.max(initial=0))

    def mask(self, num_rows: int) -> np.ndarray:
        """bool (num_rows,): whether each row of the training split is in the bias-amplified set."""
        mask = np.zeros(num_rows, dtype=bool)
        mask[self.index[self.is_selected]] = True
        return mask

    def pseudo_groups(self, by: str, num_rows: int) -> tuple[np.ndarray, int]:
        """Groups of training samples that stand for those of class and bias, which nobody knows.

        Args:
            by (`str`): With `"selected"`, the samples of a class are in one group or another as they are in the
                bias-amplified set or not. With `"predicted"`, as the members hold them to be of this or that class.
            num_rows (`int`): Rows of the training split.

        Returns:
            int64 (num_rows,), the group of each row, and how many groups there are. None is empty. Rows without votes
            are in group 0.

        Raises:
            `BiasEnsembleError`: If the saved table is older than the predictions of members.
        """
        opinion = self.is_selected if by == "selected" else self.predicted_labels
        if opinion is None:
            raise BiasEnsembleError(
                "--pseudo_groups predicted: expected a selection that says what the members predict, found an older "
                f"one; remove its {FILE_NAME} to make it again"
            )
        opinion = opinion.astype(np.int64)
        cells, group = np.unique(self.labels * (opinion.max() + 1) + opinion, return_inverse=True)
        groups = np.zeros(num_rows, dtype=np.int64)
        groups[self.index] = group
        return groups, len(cells)

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
        columns = {
            "index": self.index,
            "label": self.labels,
            "bias_label": self.bias_labels,
            "is_conflicting": self.is_conflicting,
            "votes": self.votes,
            "mean_probability": self.mean_probability,
            "is_selected": self.is_selected,
            "predicted_label": self.predicted_labels,
            "agreeing_members": self.agreeing_members,
            "lowest_probability": self.lowest_probability,
        }
        table = pa.table({name: pa.array(values) for name, values in columns.items() if values is not None})
        table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(self.provenance, sort_keys=True)})
        path = Path(folder) / FILE_NAME
        with written_whole(path) as file:
            pq.write_table(table, file)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Selection":
        """Reads what [`~Selection.save`] wrote.

        Raises:
            `BiasEnsembleError`: If there is no readable selection in the folder.
        """
        path = Path(folder) / FILE_NAME
        try:
            table = pq.read_table(path)
            provenance = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            columns = {name: table.column(name).to_numpy() for name in table.column_names}
            return cls(
                index=columns["index"],
                labels=columns["label"],
                votes=columns["votes"],
                mean_probability=columns["mean_probability"],
                is_selected=columns["is_selected"],
                provenance=provenance,
                bias_labels=columns.get("bias_label"),
                is_conflicting=columns.get("is_conflicting"),
                predicted_labels=columns.get("predicted_label"),
                agreeing_members=columns.get("agreeing_members"),
                lowest_probability=columns.get("lowest_probability"),
            )
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise BiasEnsembleError(
                f"expected a selection at {path}, found none that can be read ({' '.join(str(error).split())}); "
                "remove the file to make it again"
            ) from error
