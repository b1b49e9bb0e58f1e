"""A table of predictions, and its metrics worked out by hand."""

import numpy as np

# label, bias label, prediction; cells (0,0): 2 of 3, (0,1): 0 of 1, (1,1): 2 of 2, (1,0): 1 of 2
TABLE = np.array([(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 1), (1, 0, 1), (1, 0, 0)])
LABELS, BIAS_LABELS, PREDICTIONS = TABLE.T
EXPECTED = {
    "accuracy": 5 / 8,
    "aligned_accuracy": 4 / 5,
    "conflicting_accuracy": 1 / 3,
    "unbiased_accuracy": (2 / 3 + 0 + 1 + 1 / 2) / 4,
    "worst_group_accuracy": 0.0,
    "ac_score": 2 * (4 / 5) * (1 / 3) / (4 / 5 + 1 / 3),
}
