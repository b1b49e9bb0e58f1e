"""Every test runs offline, on the processor, with a fixed seed and caches of its own; what several files of tests
need is made once."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

_CACHE = tempfile.mkdtemp(prefix="hf_biasensemble_tests_")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads wait for each other longer than these tiny networks compute
# The same order of additions on every processor: Adam divides small gradients by themselves, so that another rounding
# of one near 0, as AVX-512 gives, changes a weight by the learning rate, and a recorded run is not met any more.
os.environ.setdefault("MKL_CBWR", "AVX2")
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
    """A small biased dataset with all columns, as a folder."""
    from synthetic import coloured_digits

    return coloured_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def vit(tmp_path):
    """A tiny vision transformer for the classes of the digits, in a folder whose name must not be published."""
    from synthetic import CLASS_NAMES
    from tiny import saved_classifier

    return saved_classifier("vit", tmp_path / "secret place" / "vit", CLASS_NAMES)


# Runs that are over --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    """Folder of a finished run of each method, made once; not to be changed."""
    from runs import train

    folders: dict[str, Path] = {}

    def finished(method: str) -> Path:
        if method not in folders:
            folders[method] = tmp_path_factory.mktemp("finished") / method
            assert train(digits, folders[method], method) == 0
        return folders[method]

    return finished


@pytest.fixture
def copy_of(finished, tmp_path):
    """A copy of a finished run, to be changed at will."""

    def copy_of(method: str) -> Path:
        return shutil.copytree(finished(method), tmp_path / "copy")

    return copy_of


@pytest.fixture(scope="session")
def published(digits, tmp_path_factory):
    """Folder of a run of each kind of model, `images/` with the test images as PNG files, and `{kind}.npy` with what
    the trained networks say of them; not to be changed."""
    import datasets
    import numpy as np
    from runs import run_command, trained_logits, words

    kinds = {
        "mlp": ("lff_be", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "image_scale": 2.0}),
        "timm": (
            "lff",
            {
                "backbone": "test_resnet",
                "image_size": 32,
                "image_mean": [0.4, 0.5, 0.6],
                "image_std": [0.2, 0.3, 0.4],
            },
        ),
        "disent": ("disent", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}),
    }
    folder = tmp_path_factory.mktemp("published")
    (folder / "images").mkdir()
    for number, image in enumerate(datasets.load_dataset(str(digits), split="test")["image"]):
        image.save(folder / "images" / f"{number:02}.png")
    for kind, (method, changes) in kinds.items():
        given = words(digits, folder / kind, method, **changes)
        assert run_command("train", given) == 0
        np.save(folder / f"{kind}.npy", trained_logits(folder / kind, given).numpy())
    return folder


# Coloured MNIST ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mnist():
    """Grey images (2200, 28, 28) and labels of different digits."""
    import numpy as np
    from mnist_files import real_or_drawn_digits

    images, labels = real_or_drawn_digits()
    assert len(np.unique(images, axis=0)) == len(images)  # or the tests of disjoint splits would mean nothing
    return images, labels


@pytest.fixture(scope="session")
def mnist_folder(mnist, tmp_path_factory):
    """The digits as Parquet files, a training and a test split."""
    from mnist_files import TRAIN, write_source

    images, labels = mnist
    splits = {"train": (images[:TRAIN], labels[:TRAIN]), "test": (images[TRAIN:], labels[TRAIN:])}
    return write_source(tmp_path_factory.mktemp("mnist"), splits)


@pytest.fixture(scope="session")
def coloured_mnist(mnist_folder, tmp_path_factory):
    """The repository with all defaults; not to be changed."""
    from mnist_files import build

    folder = tmp_path_factory.mktemp("coloured") / "cmnist"
    assert build(mnist_folder, folder) == 0
    return folder


@pytest.fixture(scope="session")
def exact_mnist(mnist_folder, tmp_path_factory):
    """No colour noise, half of the images bias-conflicting, digits of training three times; not to be changed."""
    from mnist_files import build

    folder = tmp_path_factory.mktemp("exact") / "cmnist"
    assert build(mnist_folder, folder, "--dataset_config_names", "50pct", "--color_std", "0", "--copies", "3") == 0
    return folder


# Checkpoints of the authors' code ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def reference_checkpoint(tmp_path_factory):
    """Folder of a checkpoint of each method and dataset, made once; not to be changed."""
    from reference_files import write_checkpoint

    folders: dict[tuple[str, str], Path] = {}

    def reference_checkpoint(method: str, dataset: str) -> Path:
        if (method, dataset) not in folders:
            folder = tmp_path_factory.mktemp("reference") / f"{method}_{dataset}"
            folders[method, dataset] = write_checkpoint(folder, method, dataset)
        return folders[method, dataset]

    return reference_checkpoint


# A Hub ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hub_server():
    from hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture
def hub(hub_server, tmp_path):
    """A Hub without repositories. Afterwards the token is in no file that was written or uploaded."""
    from hub_server import TOKEN

    hub = hub_server
    hub.forget()
    yield hub
    contents = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for repository in hub.repositories.values():
        contents |= {name: content for commit in repository.commits for name, content in commit.files.items()}
    assert [name for name, content in contents.items() if TOKEN.encode() in content] == []


@pytest.fixture
def client(hub, tmp_path):
    """Runs Python in a process that knows the Hub. It never shows the token."""
    from fresh_python import fresh_python
    from hub_server import TOKEN

    def client(*words: str | Path, isolated: bool = False, **variables: str):
        done = fresh_python(*words, cwd=tmp_path, isolated=isolated, **hub.environment() | variables)
        assert TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return client


@pytest.fixture(scope="session")
def long_lived_client(hub_server, tmp_path_factory):
    from long_lived_client import LongLivedClient

    with LongLivedClient(tmp_path_factory.mktemp("client"), **hub_server.environment()) as client:
        yield client


@pytest.fixture
def push(client, long_lived_client, tmp_path):
    """The push command, in a process of its own if that has other variables than the last one."""
    from hub_server import TOKEN

    def push(*words: str | Path, **variables: str):
        if variables:
            done = client("-m", "hf_biasensemble", "push", *words, **variables)
        else:
            done = long_lived_client.run("push", *words, cwd=tmp_path)
        assert all(word not in done.stdout + done.stderr for word in (TOKEN, "Traceback", "Warning")), done.stderr
        return done

    return push


def pytest_unconfigure():
    shutil.rmtree(_CACHE, ignore_errors=True)
