"""Sizes as people write them."""

import pytest

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.sizes import size_in_bytes


@pytest.mark.parametrize(
    "text, size",
    [
        *(("0", 0), ("123", 123), ("12", 12), ("7 b", 7), ("4GB", 4 * 10**9), ("20GB", 20 * 10**9), ("1g", 10**9)),
        *(("1.5 kb", 1500), ("3kB", 3000), ("1.5 mb", 1_500_000), ("2MiB", 2 * 2**20), ("1TB", 10**12)),
    ],
)
def test_size_with_its_unit(text, size):
    assert size_in_bytes(text, "--limit") == size
    assert DataArguments(dataset_name="x", pixel_memory_limit=text).pixel_memory_bytes() == size


@pytest.mark.parametrize("text", ["", "GB", "1XB", "-1GB", "1e9", "4iB", "much"])
def test_other_forms_are_refused_by_the_name_of_the_option(text):
    with pytest.raises(BiasEnsembleError, match="^--limit: expected bytes, such as 4GB, 500MB or 0, found '" + text):
        size_in_bytes(text, "--limit")
