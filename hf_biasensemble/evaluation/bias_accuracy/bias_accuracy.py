"""`hf_biasensemble.evaluation.accuracy` as a module of the `evaluate` library: `evaluate.load(this folder)`.

`evaluate` imports a copy of this file, and its pattern for import lines expects one module per line.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from hf_biasensemble.evaluation import accuracy
from hf_biasensemble.internal.errors import missing_package

try:
    import evaluate
except ImportError:
    raise missing_package("evaluate", "evaluate") from None

_DESCRIPTION = """
Accuracy of a classifier: overall, on bias-aligned and on bias-conflicting samples, averaged over the groups of label
and bias, and in the worst of these groups. Groups without samples are omitted, never 0.
"""

_CITATION = """
@inproceedings{lee2023biasensemble,
  title     = {Revisiting the Importance of Amplifying Bias for Debiasing},
  author    = {Lee, Jungsoo and Park, Jeonghoon and Kim, Daeyoung and Lee, Juyoung and Choi, Edward and Choo, Jaegul},
  booktitle = {AAAI},
  year      = {2023}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list[int]` of length N): Predicted classes.
    references (`list[int]` of length N): True classes.
    bias_labels (`list[int]` of length N, *optional*): Bias attribute of each sample.
    is_conflicting (`list[bool]` of length N, *optional*): Whether each sample is bias-conflicting.

Returns:
    `dict[str, float]` with values in [0, 1]: `accuracy`; with `is_conflicting` also `aligned_accuracy`,
    `conflicting_accuracy` and their harmonic mean `ac_score`; with either, `unbiased_accuracy` and
    `worst_group_accuracy`, mean and minimum over the non-empty groups of label and bias (or conflict).

Raises:
    `ValueError`: If there are no samples, the lengths differ, or an optional input is given for some samples only.

Examples:

    >>> from importlib.resources import files
    >>> import evaluate
    >>> bias_accuracy = evaluate.load(str(files("hf_biasensemble.evaluation") / "bias_accuracy"))
    >>> bias_accuracy.compute(predictions=[0, 1, 1, 1], references=[0, 0, 1, 1])
    {'accuracy': 0.75}
    >>> results = bias_accuracy.compute(
    ...     predictions=[0, 1, 1, 1], references=[0, 0, 1, 1], is_conflicting=[False, True, False, False]
    ... )
    >>> {name: round(value, 2) for name, value in results.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'accuracy': 0.75, 'aligned_accuracy': 1.0, 'conflicting_accuracy': 0.0, 'unbiased_accuracy': 0.67,
     'worst_group_accuracy': 0.0, 'ac_score': 0.0}
"""

_OPTIONAL = ("bias_labels", "is_conflicting")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class BiasAccuracy(evaluate.Metric):
    # `evaluate` has no optional inputs, so `_compute` gets missing ones as columns of nulls.

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": "int64", "references": "int64", "bias_labels": "int64", "is_conflicting": "bool"}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({name: datasets.Value(dtype) for name, dtype in columns.items()}),
            reference_urls=["https://huggingface.co/papers/2205.14594"],
        )

    def compute(self, **inputs: Any) -> dict[str, float] | None:
        """Computes accuracy by group of these inputs, or of the samples added before."""
        return super().compute(**dict.fromkeys(_OPTIONAL) | inputs)

    def add_batch(
        self,
        *,
        predictions: Sequence,
        references: Sequence,
        bias_labels: Sequence | None = None,
        is_conflicting: Sequence | None = None,
    ) -> None:
        """Adds samples for a later `compute()`, with the same arguments."""
        absent = [None] * len(predictions)
        super().add_batch(
            predictions=predictions,
            references=references,
            bias_labels=absent if bias_labels is None else bias_labels,
            is_conflicting=absent if is_conflicting is None else is_conflicting,
        )

    def add(self, **example: Any) -> None:
        """Adds a sample: `prediction`, `reference` and, if known, `bias_labels` and `is_conflicting`."""
        super().add(**dict.fromkeys(_OPTIONAL) | example)

    def _compute(
        self, predictions: list, references: list, bias_labels: list, is_conflicting: list
    ) -> dict[str, float]:
        return accuracy.bias_accuracy(
            np.asarray(predictions),
            np.asarray(references),
            _whole_or_absent("bias_labels", bias_labels),
            _whole_or_absent("is_conflicting", is_conflicting),
        )


def _whole_or_absent(name: str, values: list) -> np.ndarray | None:
    missing = values.count(None)
    if missing not in (0, len(values)):
        raise ValueError(f"{name}: expected values for all {len(values)} samples or for none, {missing} are missing")
    return None if missing else np.asarray(values)
