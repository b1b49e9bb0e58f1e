"""Measurements of speed and memory, each a ratio of medians from interleaved repeats inside one run.

`python -m benchmarks NAME` runs one of them; `docs/performance.md` says what each is for,
`docs/experiments/performance.md` what came out.
"""
