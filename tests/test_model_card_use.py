"""What the card of a run is for: its examples run, its command makes the model again, and it goes with its run."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import cards
import datasets
import pytest
import torch
from cards import card
from runs import error_line, train, weights
from synthetic import CLASS_NAMES

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.folders.output_folder import EXPLAINED_FILES, FIGURE_FILES
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.reporting.card.model_card import REPOSITORY_PLACEHOLDER

finished = cards.finished

# Examples ------------------------------------------------------------------------------------------------------------

NEEDED = {"lff_be": 2, "disent_be": 2, "timm": 2}
WITH_TIMM = """import timm
model = MODEL.eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    print(model(transform(Image.open("image.png").convert("RGB")).unsqueeze(0)).argmax(-1).item())"""


@pytest.mark.slow
def test_examples_run_without_the_library_and_classify_alike(finished, tmp_path):
    scripts, expected = ["import sys", "sys.modules['hf_biasensemble'] = None  # cannot be imported"], []
    for name, count in NEEDED.items():
        data, output_dir = finished(name)
        model, transform, geometry = load_classifier(str(output_dir))
        pixels = load_image_splits(DataArguments(dataset_name=str(data)), geometry)["test"].pixels
        with torch.inference_mode():
            predicted = model(pixel_values=transform(pixels, training=False)).logits.argmax(-1).tolist()
        row = (
            next(row for row, label in enumerate(predicted) if label != predicted[0]) if len(set(predicted)) > 1 else 0
        )
        datasets.load_dataset(str(data), split="test")[row]["image"].save(tmp_path / f"{name}.png")
        examples = re.findall(r"```python\n(.*?)```", card(output_dir), re.DOTALL)
        assert len(examples) == count
        if name == "timm":
            examples.append(WITH_TIMM.replace("MODEL", re.search(r"`(timm\.create_model.*?\))`", card(output_dir))[1]))
        scripts += [
            example.replace(REPOSITORY_PLACEHOLDER, str(output_dir)).replace("image.png", f"{name}.png")
            for example in examples
        ]
        label = CLASS_NAMES[predicted[row]]
        expected += [label, label, str(predicted[row])][: len(examples)]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf_home"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-I", "-c", "\n".join(scripts)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = [re.sub(r"^\[\{'label': '(\w+)'.*", r"\1", line) for line in done.stdout.splitlines()]
    assert printed == expected


def test_the_command_makes_the_same_model_again(finished, tmp_path, monkeypatch):
    data, output_dir = finished("lff_be")
    command = re.search(r"```bash\n(.*?)\n```", card(output_dir), re.DOTALL)[1]
    launcher, script, *words = shlex.split(command.replace(f"path/to/{data.name}", str(data)))
    assert (launcher, script) == ("python", "train.py")
    shutil.copy(output_dir / "config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_command("train", [*words, "--disable_tqdm", "true"]) == 0
    assert weights(tmp_path / "outputs" / "again") == weights(output_dir)


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_readme_that_is_already_there_is_not_lost(finished, tmp_path, capsys):
    data, _ = finished("erm")
    (tmp_path / "README.md").write_text("mine")
    assert train(data, tmp_path, "erm") == 2
    assert "README.md" in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"] and card(tmp_path) == "mine"


def test_an_earlier_card_goes_with_its_run_and_all_its_pictures(finished, tmp_path):
    data, output_dir = finished("lff_be")
    folder = shutil.copytree(output_dir, tmp_path / "lff_be")
    for name in EXPLAINED_FILES:
        shutil.copy(folder / "figures" / "groups.png", folder / name)
    (folder / "figures" / "mine.png").write_bytes(b"")
    assert {f"figures/{file.name}" for file in (folder / "figures").iterdir()} == {*FIGURE_FILES, "figures/mine.png"}
    assert train(data, folder, "lff_be", member_threshold=0.999999, member_steps=1, overwrite_output_dir="true") != 0
    assert not (folder / "README.md").exists()
    assert [file.name for file in (folder / "figures").iterdir()] == ["mine.png"]


def test_a_finished_run_that_is_resumed_has_no_pictures_of_before(finished, tmp_path):
    data, _ = finished("erm")
    assert train(data, tmp_path / "out", "lff", max_steps=4) == 0
    explained = tmp_path / "out" / "figures" / "reliance.png"
    shutil.copy(tmp_path / "out" / "figures" / "groups.png", explained)
    assert train(data, tmp_path / "out", "lff", max_steps=8, resume_from_checkpoint="true") == 0
    assert not explained.exists() and (tmp_path / "out" / "figures" / "groups.png").exists()
