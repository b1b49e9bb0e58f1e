"""Timings, each a ratio of medians from interleaved repeats inside one run."""
