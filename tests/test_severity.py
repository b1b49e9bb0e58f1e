"""Severities by name, and their shares of the classes."""

from fractions import Fraction

import numpy as np

from hf_biasensemble.benchmark_datasets.severity import apportion, parse_severity


def test_severities_are_named_in_their_shortest_form():
    names = {
        "1pct": "1pct",
        "1.0pct": "1pct",
        "01pct": "1pct",
        "10pct": "10pct",
        "0.50pct": "0.5pct",
        "20.0pct": "20pct",
    }
    assert {text: parse_severity(text)[0] for text in names} == names
    assert parse_severity("0.5pct")[1] == Fraction(1, 200)


def test_apportion_follows_the_class_sizes():
    sizes = np.array([5429, 6180, 5462, 5620, 5355, 4969, 5425, 5743, 5364, 5453])
    for total in (0, 1, 7, 275, 550, 2_750, 55_000):
        counts = apportion(total, sizes)
        assert counts.sum() == total
        assert np.all(np.abs(counts - total * sizes / sizes.sum()) < 1)
    assert apportion(3, np.array([10, 10, 10, 20])).tolist() == [1, 1, 0, 1]
    assert apportion(5, np.array([0, 5, 0])).tolist() == [0, 5, 0]
