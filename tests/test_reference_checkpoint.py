"""Checkpoints of the authors' code: the same logits after the import, and what is refused."""

import ast
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from reference_files import FILES, STEP, Mlp, ResNet, expected_logits, write_checkpoint
from synthetic import coloured_glyphs, write_parquet
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.models.reference_checkpoint import load_reference_checkpoint

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "fixtures" / "reference_checkpoint"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder of a checkpoint of each method and data set, made once; not to be changed."""
    folders: dict[tuple[str, str], Path] = {}

    def checkpoint(method: str, dataset: str) -> Path:
        if (method, dataset) not in folders:
            folder = tmp_path_factory.mktemp("reference") / f"{method}_{dataset}"
            folders[method, dataset] = write_checkpoint(folder, method, dataset)
        return folders[method, dataset]

    return checkpoint


def import_reference(folder: Path, output_dir: Path, method: str = "lff", dataset: str = "cmnist", *more: str) -> int:
    words = ["--checkpoint_dir", folder, "--method", method, "--dataset", dataset, "--output_dir", output_dir, *more]
    return run_command("import_reference", [str(word) for word in words])


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


def error_line(capsys) -> str:
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    return errors[0]


# The same logits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", FILES)
@pytest.mark.parametrize("method", ["lff", "disent"])
@pytest.mark.parametrize("dataset", ["cmnist", "bar"])
def test_saved_model_and_processor_give_the_authors_logits(checkpoint, tmp_path, method, dataset, which):
    # Photographs of two sizes: the processor must resize as the authors' evaluation does.
    sizes = [(28, 28)] * 4 if dataset == "cmnist" else [(224, 224), (300, 200)]
    images = photographs(sizes)
    folder = checkpoint(method, dataset)
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


def rewritten(folder: Path, target: Path, change, which: tuple[str, ...] = tuple(FILES), **options) -> Path:
    """A copy of the folder in which `change(content)` was made to the files of `which`."""
    target.mkdir()
    for name, file in FILES.items():
        content = torch.load(folder / file, weights_only=True)
        if name in which:
            content = change(content) or content
        torch.save(content, target / file, **options)
    return target


def with_weights(change):
    """A change of each tensor, or of the dict of tensors."""

    def changed(content: dict) -> None:
        content["state_dict"] = change(content["state_dict"])

    return changed


@pytest.mark.parametrize("method", ["lff", "disent"])
def test_data_parallel_names_and_the_old_file_format_open(checkpoint, tmp_path, method):
    prefixed = with_weights(lambda state: {f"module.{name}": value for name, value in state.items()})
    folder = rewritten(checkpoint(method, "cmnist"), tmp_path / "in", prefixed, _use_new_zipfile_serialization=False)
    images = photographs([(28, 28)] * 4)
    assert import_reference(folder, tmp_path / "out", method) == 0
    expected = expected_logits(method, "cmnist", images)
    assert difference(published_logits(tmp_path / "out", images), expected) < 1e-5


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_floating_point_types_are_converted_and_the_card_says_so(checkpoint, tmp_path, dtype):
    def convert(state):
        return {name: value.to(getattr(torch, dtype)) for name, value in state.items()}

    folder = rewritten(checkpoint("lff", "cmnist"), tmp_path / "in", with_weights(convert))
    assert import_reference(folder, tmp_path / "out") == 0
    assert f"{dtype} converted to float32" in (tmp_path / "out" / "README.md").read_text()
    images = photographs([(28, 28)] * 4)
    found = published_logits(tmp_path / "out", images)
    assert found.dtype == torch.float32
    assert difference(found, expected_logits("lff", "cmnist", images)) < (1e-5 if dtype == "float64" else 0.1)


# The card ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, dataset, needs_code", [("lff", "bffhq", False), ("disent", "cmnist", True)])
def test_card_says_where_the_model_came_from_and_its_snippet_runs(checkpoint, tmp_path, method, dataset, needs_code):
    folder = checkpoint(method, dataset)
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
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf_home"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-I", "-c", snippet], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
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
def test_command_measures_a_checkpoint(checkpoint, coloured_tens, tmp_path, capsys, method, which):
    words = ["--reference_checkpoint", checkpoint(method, "cmnist"), "--method", method, "--dataset", "cmnist"]
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
        (["--reference_checkpoint", "b", "--method", "lff"], "--dataset: expected one of cmnist, bffhq"),
    ],
)
def test_command_says_which_options_go_together(coloured_tens, capsys, words, expected):
    assert run_command("test", ["--dataset_name", str(coloured_tens), *words]) == 2
    assert expected in error_line(capsys)


# What is refused -----------------------------------------------------------------------------------------------------


def refused(
    capsys, tmp_path: Path, folder: Path, *expected: str, method: str = "lff", dataset: str = "cmnist"
) -> None:
    """The import fails in one line that holds all of `expected`, and writes nothing."""
    assert import_reference(folder, tmp_path / "out", method, dataset) == 2
    message = error_line(capsys)
    for text in (*expected, "expected", "found", ";"):
        assert text in message, message
    assert not (tmp_path / "out").exists()


def test_missing_folder_and_file_in_its_place(checkpoint, tmp_path, capsys):
    refused(capsys, tmp_path, tmp_path / "nowhere", "nowhere", "no such folder")
    refused(capsys, tmp_path, checkpoint("lff", "cmnist") / FILES["debiased"], "found a file; name the folder")


@pytest.mark.parametrize("which", FILES)
def test_missing_file_is_named(checkpoint, tmp_path, capsys, which):
    other = FILES["biased" if which == "debiased" else "debiased"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / other).write_bytes((checkpoint("disent", "cmnist") / other).read_bytes())
    parts = (f"found no {FILES[which]} (there: {other})", "DisEnt needs both files")
    refused(capsys, tmp_path, tmp_path / "in", *parts, method="disent")


def test_lff_needs_only_the_file_asked_for(checkpoint, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "best_model_b.th").write_bytes((checkpoint("lff", "cmnist") / "best_model_b.th").read_bytes())
    refused(capsys, tmp_path, tmp_path / "in", "found no best_model_d.th (there: best_model_b.th)")
    assert import_reference(tmp_path / "in", tmp_path / "out", "lff", "cmnist", "--which", "biased") == 0


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_file(checkpoint, tmp_path, capsys, share, old_format):
    options = {"_use_new_zipfile_serialization": not old_format}
    folder = rewritten(checkpoint("lff", "cmnist"), tmp_path / "in", lambda content: None, **options)
    whole = (folder / "best_model_d.th").read_bytes()
    (folder / "best_model_d.th").write_bytes(whole[: int(share * len(whole))])
    refused(capsys, tmp_path, folder, "best_model_d.th", "truncated or another format", "copy or download")


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("file_format", ["torch", "old torch", "pickle"])
def test_code_in_a_file_is_never_run(tmp_path, capsys, file_format):
    content = {"steps": STEP, "state_dict": {"fc.weight": Malicious(tmp_path / "made")}, "optimizer": {}}
    stream = io.BytesIO()
    if file_format == "pickle":
        pickle.dump(content, stream)
    else:
        torch.save(content, stream, _use_new_zipfile_serialization=file_format == "torch")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "best_model_d.th").write_bytes(stream.getvalue())
    refused(capsys, tmp_path, tmp_path / "in", *(["mkdir", "nothing was run"] if file_format != "pickle" else []))
    assert not (tmp_path / "made").exists()
    stream.seek(0)
    pickle.load(stream) if file_format == "pickle" else torch.load(stream, weights_only=False)
    assert (tmp_path / "made").exists()  # so it is code that was not run


@pytest.mark.parametrize(
    "content, found",
    [
        ([1, 2], "found a list"),
        (torch.ones(3), "found a Tensor"),
        ({}, "found an empty dict"),
        ({"feature.0.weight": torch.ones(3)}, "found a dict of feature.0.weight"),
        ({"steps": 1, "state_dict": {}}, "found a dict of steps, state_dict"),
        ({"steps": 1, "state_dict": {"fc.weight": "text"}}, "found a dict of steps, state_dict"),
    ],
)
def test_file_without_a_state_dict(tmp_path, capsys, content, found):
    (tmp_path / "in").mkdir()
    torch.save(content, tmp_path / "in" / "best_model_d.th")
    refused(capsys, tmp_path, tmp_path / "in", "expected a dict with steps, state_dict", found, "save_best")


@pytest.mark.parametrize("dataset, widths", [("cmnist", (16, 32)), ("bar", (512, 1024))])
@pytest.mark.parametrize("method", ["lff", "disent"])
def test_other_method_is_recognised_by_its_head(checkpoint, tmp_path, capsys, method, dataset, widths):
    asked = "disent" if method == "lff" else "lff"
    found, expected = widths if method == "lff" else widths[::-1]
    parts = (f"head on {expected} features (--method {asked})", f"found one on {found}; use --method {method}")
    refused(capsys, tmp_path, checkpoint(method, dataset), *parts, method=asked, dataset=dataset)


@pytest.mark.parametrize(
    "written, asked, parts",
    [
        (
            "bar",
            "cmnist",
            ["the MLP for --dataset cmnist", "found a ResNet", "--dataset is bffhq, dogs_and_cats or bar"],
        ),
        ("cmnist", "bar", ["a ResNet18 for --dataset bar", "found the MLP", "--dataset is cmnist"]),
        ("bar", "bffhq", ["2 classes on 512", "found weights (6, 512)", "perhaps this is --dataset bar"]),
        ("bffhq", "bar", ["6 classes on 512", "found weights (2, 512)", "--dataset bffhq or dogs_and_cats"]),
    ],
)
def test_other_data_set(checkpoint, tmp_path, capsys, written, asked, parts):
    refused(capsys, tmp_path, checkpoint("lff", written), *parts, dataset=asked)


def network_file(folder: Path, network: torch.nn.Module) -> Path:
    folder.mkdir()
    torch.save({"steps": STEP, "state_dict": network.state_dict(), "optimizer": {}}, folder / "best_model_d.th")
    return folder


def test_other_widths(tmp_path, capsys):
    folder = network_file(tmp_path / "hidden", Mlp("lff", 10, hidden=64))
    refused(capsys, tmp_path, folder, "expected feature.0.weight of shape (100, 2352)", "found (64, 2352)")
    network = ResNet("lff", 6)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, bias=False)
    folder = network_file(tmp_path / "stem", network)
    parts = ("expected conv1.weight of shape (64, 3, 7, 7)", "found (64, 3, 3, 3)")
    refused(capsys, tmp_path, folder, *parts, dataset="bar")
    folder = network_file(tmp_path / "classes", Mlp("lff", 7))
    refused(
        capsys, tmp_path, folder, "10 classes on 16", "found weights (7, 16)", "no data set of the authors has that"
    )


def test_missing_and_unknown_weights_are_named(checkpoint, tmp_path, capsys):
    def change(state):
        state = {name: value for name, value in state.items() if name not in ("feature.2.bias", "classifier.bias")}
        return state | {f"extra.{number}": torch.ones(1) for number in range(7)}

    folder = rewritten(checkpoint("lff", "cmnist"), tmp_path / "in", with_weights(change))
    named = "found no feature.2.bias, classifier.bias and the unknown extra.0, extra.1, extra.2, extra.3 and 3 more"
    refused(capsys, tmp_path, folder, named)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", FILES)
def test_weights_that_are_not_finite(checkpoint, tmp_path, capsys, value, which):
    def change(state):
        state["feature.4.weight"][3, 5] = value
        return state

    folder = rewritten(checkpoint("disent", "cmnist"), tmp_path / "in", with_weights(change), (which,))
    refused(capsys, tmp_path, folder, FILES[which], "in feature.4.weight", "diverged", method="disent")


@pytest.mark.parametrize("dtype", ["int64", "complex64", "bool"])
def test_weights_that_are_no_floating_point_numbers(checkpoint, tmp_path, capsys, dtype):
    def change(state):
        return {name: value.to(getattr(torch, dtype)) for name, value in state.items()}

    folder = rewritten(checkpoint("lff", "cmnist"), tmp_path / "in", with_weights(change))
    refused(capsys, tmp_path, folder, f"of type {dtype}", "save the network again as float32")


def test_files_of_two_saves_do_not_make_a_pair(checkpoint, tmp_path, capsys):
    folder = rewritten(checkpoint("disent", "cmnist"), tmp_path / "in", lambda c: c | {"steps": 9}, ("biased",))
    refused(capsys, tmp_path, folder, f"step {STEP} (best_model_d.th) and step 9 (best_model_b.th)", method="disent")


@pytest.mark.parametrize("present", ["README.md", "config.json", "model.safetensors", "config.yaml", "selection/x"])
def test_folder_with_a_model_or_a_run_is_left_alone(checkpoint, tmp_path, capsys, present):
    file = tmp_path / "out" / present
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("kept")
    assert import_reference(checkpoint("lff", "cmnist"), tmp_path / "out") == 2
    message = error_line(capsys)
    assert f"found {present.split('/')[0]}; name another folder" in message
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "kept"


def test_folder_with_other_files_is_used(checkpoint, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("kept")
    assert import_reference(checkpoint("lff", "cmnist"), tmp_path / "out") == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "kept"
    assert import_reference(checkpoint("lff", "cmnist"), tmp_path / "out" / "notes.txt") == 2
    assert "expected a folder, found a file" in error_line(capsys)


def test_data_set_gives_names_and_order_of_the_classes(checkpoint):
    written = {"bffhq": "bffhq", "dogs_and_cats": "bffhq", "bar": "bar"}  # both of the first have two classes
    classes = {
        "bffhq": ["young", "old"],
        "dogs_and_cats": ["cat", "dog"],
        "bar": ["climbing", "diving", "fishing", "racing", "throwing", "pole vaulting"],
    }
    for dataset, names in classes.items():
        config = load_reference_checkpoint(checkpoint("lff", written[dataset]), "lff", dataset).model.config
        assert [config.id2label[number] for number in range(len(names))] == names
