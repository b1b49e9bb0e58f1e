"""Measurements of speed and memory, each a ratio of medians from interleaved repeats inside one run.

`python -m benchmarks NAME` runs one of them. `docs/performance.md` explains them, `docs/experiments/performance.md`
has the results.
"""
