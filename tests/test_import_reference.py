"""Imported checkpoints of the authors' code give the same logits, in a folder with a card and in the test command."""

import ast
import hashlib
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from fresh_python import fresh_python
from huggingface_hub import ModelCard
from PIL import Image
from reference_files import FILES, STEP, expected_logits, import_reference, rewritten, with_weights
from runs import error_line
from synthetic import coloured_glyphs, write_parquet
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.models.reference_checkpoint import load_reference_checkpoint

RECORDED = Path(__file__).parent / "fixtures" / "reference_checkpoint"


def photographs(sizes: list[tuple[int, int]], seed: int = 0) -> list[Image.Image]:
    """Blurred coloured patches with some noise, of any size."""
    generator = np.random.default_rng(seed)
    images = []
    for width, height in sizes:
        patches = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        pixels = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        noisy = pixels + generator.integers(-20, 21, pixels.shape)
        images.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return images


def published_logits(folder: Path, images: list[Image.Image]) -> torch.Tensor:
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        return model(**processor(images, return_tensors="pt")).logits


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    assert expected.std(0).mean() > 1e-3  # the answers depend on the image
    return (found - expected).abs().max().item()


# The same logits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", FILES)
@pytest.mark.parametrize("method", ["lff", "disent"])
@pytest.mark.parametrize("dataset", ["cmnist", "bar"])
def test_saved_model_and_processor_give_the_authors_logits(reference_checkpoint, tmp_path, method, dataset, which):
    # Photographs of two sizes: the processor must resize as the authors' evaluation does.
    sizes = [(28, 28)] * 4 if dataset == "cmnist" else [(224, 224), (300, 200)]
    images = photographs(sizes)
    folder = reference_checkpoint(method, dataset)
    assert import_reference(folder, tmp_path / "out", method, dataset, "--which", which) == 0
    expected = expected_logits(method, dataset, images, which)
    assert difference(published_logits(tmp_path / "out", images), expected) < 1e-5
    other = expected_logits(method, dataset, images, "biased" if which == "debiased" else "debiased")
    assert (other - expected).abs().max() > 0.01


def test_recorded_checkpoint_gives_the_recorded_logits(tmp_path):
    recorded = np.load(RECORDED / "expected.npz")
    assert import_reference(RECORDED, tmp_path / "out") == 0
    found = published_logits(tmp_path / "out", [Image.fromarray(image) for image in recorded["image"]])
    assert difference(found, torch.from_numpy(recorded["logits_debiased"])) < 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(config["id2label"].values()) == list("0123456789")


@pytest.mark.parametrize("method", ["lff", "disent"])
def test_data_parallel_names_and_the_old_file_format_open(reference_checkpoint, tmp_path, method):
    prefixed = with_weights(lambda state: {f"module.{name}": value for name, value in state.items()})
    folder = rewritten(
        reference_checkpoint(method, "cmnist"), tmp_path / "in", prefixed, _use_new_zipfile_serialization=False
    )
    images = photographs([(28, 28)] * 4)
    assert import_reference(folder, tmp_path / "out", method) == 0
    expected = expected_logits(method, "cmnist", images)
    assert difference(published_logits(tmp_path / "out", images), expected) < 1e-5


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_floating_point_types_are_converted_and_the_card_says_so(reference_checkpoint, tmp_path, dtype):
    def convert(state):
        return {name: value.to(getattr(torch, dtype)) for name, value in state.items()}

    folder = rewritten(reference_checkpoint("lff", "cmnist"), tmp_path / "in", with_weights(convert))
    assert import_reference(folder, tmp_path / "out") == 0
    assert f"{dtype} converted to float32" in (tmp_path / "out" / "README.md").read_text()
    images = photographs([(28, 28)] * 4)
    found = published_logits(tmp_path / "out", images)
    assert found.dtype == torch.float32
    assert difference(found, expected_logits("lff", "cmnist", images)) < (1e-5 if dtype == "float64" else 0.1)


def test_data_set_gives_names_and_order_of_the_classes(reference_checkpoint):
    written = {"bffhq": "bffhq", "dogs_and_cats": "bffhq", "bar": "bar"}  # both of the first have two classes
    classes = {
        "bffhq": ["young", "old"],
        "dogs_and_cats": ["cat", "dog"],
        "bar": ["climbing", "diving", "fishing", "racing", "throwing", "pole vaulting"],
    }
    for dataset, names in classes.items():
        config = load_reference_checkpoint(reference_checkpoint("lff", written[dataset]), "lff", dataset).model.config
        assert [config.id2label[number] for number in range(len(names))] == names


# The folder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", ["README.md", "config.json", "model.safetensors", "config.yaml", "selection/x"])
def test_folder_with_a_model_or_a_run_is_left_alone(reference_checkpoint, tmp_path, capsys, present):
    file = tmp_path / "out" / present
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("kept")
    assert import_reference(reference_checkpoint("lff", "cmnist"), tmp_path / "out") == 2
    message = error_line(capsys)
    assert f"found {present.split('/')[0]}; name another folder" in message
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "kept"


def test_folder_with_other_files_is_used(reference_checkpoint, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("kept")
    assert import_reference(reference_checkpoint("lff", "cmnist"), tmp_path / "out") == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "kept"
    assert import_reference(reference_checkpoint("lff", "cmnist"), tmp_path / "out" / "notes.txt") == 2
    assert "expected a folder, found a file" in error_line(capsys)


# The card ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method, dataset, needs_code", [("lff", "bffhq", False), ("disent", "cmnist", True)])
def test_card_says_where_the_model_came_from_and_its_snippet_runs(
    reference_checkpoint, tmp_path, method, dataset, needs_code
):
    folder = reference_checkpoint(method, dataset)
    assert import_reference(folder, tmp_path / "an imported model", method, dataset) == 0
    text = (tmp_path / "an imported model" / "README.md").read_text()
    metadata = ModelCard(text).data.to_dict()
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-classification"
    assert {method, dataset, "hf_biasensemble"} <= set(metadata["tags"])
    for name, file in FILES.items():
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        assert (digest in text) == (method == "disent" or name == "debiased")
    assert f"step {STEP} " in text and "racle, chosen on the test set" in text
    assert all(number in text for number in ("2007.02561", "2107.01372", "2205.14594"))
    assert "None" not in text and not re.search(r"^#.*\n+(#|\Z)", text, re.MULTILINE)
    assert ("trust_remote_code" in text) == needs_code

    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    photographs([(60, 40)])[0].save(tmp_path / "image.png")
    done = fresh_python("-c", snippet, cwd=tmp_path, isolated=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = ast.literal_eval(done.stdout.splitlines()[-1])
    with Image.open(tmp_path / "image.png") as image:
        expected = expected_logits(method, dataset, [image.resize((28, 28), 2) if dataset == "cmnist" else image])
    scores = expected.softmax(-1)[0]
    model = load_reference_checkpoint(folder, method, dataset).model
    for answer in answers:
        assert answer["score"] == pytest.approx(scores[model.config.label2id[answer["label"]]].item(), abs=1e-5)
    assert len(answers) == min(5, len(scores))


# test.py on a checkpoint ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coloured_tens(tmp_path_factory):
    """Coloured images with the classes of Coloured MNIST, each of another frequency: 1, 2, ... 10."""
    columns = coloured_glyphs(55, 0.5, seed=0)
    columns["label"] = [digit for digit in range(10) for _ in range(digit + 1)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list("0123456789")),
            "bias_label": datasets.Value("int64"),
            "is_conflicting": datasets.Value("bool"),
        }
    )
    folder = tmp_path_factory.mktemp("tens")
    write_parquet(folder / "test.parquet", columns, features)
    write_parquet(folder / "train.parquet", columns, features)
    return folder


@pytest.mark.parametrize("method, which", [("lff", "biased"), ("disent", "debiased")])
def test_command_measures_a_checkpoint(reference_checkpoint, coloured_tens, tmp_path, capsys, method, which):
    words = [
        "--reference_checkpoint",
        reference_checkpoint(method, "cmnist"),
        "--method",
        method,
        "--reference_dataset",
        "cmnist",
    ]
    words += ["--which", which, "--dataset_name", coloured_tens, "--output_file", tmp_path / "results.json"]
    assert run_command("test", [str(word) for word in words]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    split = datasets.load_dataset(str(coloured_tens), split="test")
    accuracy = {}
    for name in FILES:
        predicted = expected_logits(method, "cmnist", split["image"][:], name).argmax(-1).numpy()
        accuracy[name] = (predicted == np.array(split["label"])).mean()
    assert accuracy["debiased"] != accuracy["biased"] or method == "disent"
    assert results["test_accuracy"] == pytest.approx(accuracy[which])
    assert results["checkpoint_choice"] == "oracle, chosen on the test set"
    assert "oracle, chosen on the test set" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "expected one of --model (folder or Hub id of a saved classifier) and --reference_checkpoint"),
        (["--model", "a", "--reference_checkpoint", "b"], "found both"),
        (["--model", "a", "--method", "lff"], "--method: expected only with --reference_checkpoint"),
        (["--reference_checkpoint", "b"], "--method: expected one of lff, disent, found nothing"),
        (["--reference_checkpoint", "b", "--method", "lff_be"], "--method: expected one of lff, disent, found lff_be"),
        (["--reference_checkpoint", "b", "--method", "lff"], "--reference_dataset: expected one of cmnist, bffhq"),
    ],
)
def test_command_says_which_options_go_together(coloured_tens, capsys, words, expected):
    assert run_command("test", ["--dataset_name", str(coloured_tens), *words]) == 2
    assert expected in error_line(capsys)
