"""Every test runs offline, on the processor, with a fixed seed and caches of its own."""

import gc
import os
import shutil
import tempfile

_CACHE = tempfile.mkdtemp(prefix="hf_biasensemble_tests_")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads wait for each other longer than these tiny networks compute
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HOME"] = _CACHE
os.environ["HF_DATASETS_CACHE"] = os.path.join(_CACHE, "datasets")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def imported_modules_are_no_garbage():
    """Each training collects garbage, which would go through all imported modules again and again."""
    import datasets  # noqa: F401
    import transformers.trainer  # noqa: F401

    gc.freeze()


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A small biased data set with all columns, as a folder."""
    from synthetic import coloured_digits

    return coloured_digits(tmp_path_factory.mktemp("digits"))


def pytest_unconfigure():
    shutil.rmtree(_CACHE, ignore_errors=True)
