"""A saved classifier on images of one's own, and as an ONNX file."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from runs import error_line, train
from synthetic import CLASS_NAMES, png_header_only

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.models.export import load_classifier


@pytest.fixture(scope="module")
def model(digits, tmp_path_factory):
    """Folder of a trained classifier."""
    folder = tmp_path_factory.mktemp("model") / "erm"
    changes = {"max_steps": 60, "image_scale": 0.5, "eval_strategy": "no", "save_strategy": "no"}
    assert train(digits, folder, **changes) == 0
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Odd but readable images, as a dataset folder: one folder per class."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASS_NAMES):
        (folder / name).mkdir()
        pixels = generator.integers(0, 256, (40, 30 + number, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image.save(folder / name / "colour.png")
        image.convert("L").save(folder / name / "grey.png")
        image.convert("CMYK").save(folder / name / "print.jpg")
        image.quantize(7).save(folder / name / "palette.gif")
        image.convert("RGBA").save(folder / name / "alpha.webp", lossless=True)
        Image.fromarray(pixels[..., 0].astype(np.uint16) << 8).save(folder / name / "deep.png")
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        image.save(folder / name / "turned.jpg", exif=exif)
    (folder / "bar" / "notes.txt").write_text("no image")
    return folder


def predict(capsys, *words) -> tuple[int, list[dict[str, str]], list[str]]:
    """Exit status, rows of the CSV on the screen, and the lines about images that could not be read."""
    capsys.readouterr()
    status = run_command("predict", ["--model", *(str(word) for word in words)])
    printed = capsys.readouterr()
    unread = [line for line in printed.err.splitlines() if line.startswith("not read: ")]
    return status, list(csv.DictReader(io.StringIO(printed.out))), unread


def test_names_in_the_table_are_no_formulas(model, images, capsys, tmp_path, monkeypatch):
    folder = shutil.copytree(model, tmp_path / "model")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(re.sub(rf'"({"|".join(CLASS_NAMES)})"', r'"=\1"', config))
    shutil.copy(images / "bar" / "colour.png", tmp_path / "-1+1.png")
    monkeypatch.chdir(tmp_path)
    status, (row,), _ = predict(capsys, folder, "./-1+1.png")
    assert status == 0 and row["file"] == "'-1+1.png"
    assert row["label"].startswith("'=") and row["label"][2:] in CLASS_NAMES and float(row["probability"]) > 0
    assert run_command("predict", ["--model", str(folder), "./-1+1.png", "--output_file", "a.jsonl"]) == 0
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row["file"] == "-1+1.png" and row["label"].startswith("=")


def test_odd_images_are_classified_as_in_training_and_testing(model, images, capsys):
    split = load_image_splits(DataArguments(dataset_name=str(images)), 28)["train"]
    network, transform, _ = load_classifier(str(model))
    with torch.inference_mode():
        probabilities = network(transform(split.pixels, training=False)).logits.softmax(dim=-1)
    status, rows, unread = predict(capsys, model, images, "--top_k", 9, "--batch_size", 5)
    assert (status, unread) == (0, [])
    assert [row["file"] for row in rows] == [
        str(file) for file in sorted(images.glob("*/*.*")) if file.suffix != ".txt"
    ]
    assert len(rows) == 7 * len(CLASS_NAMES)
    assert len({row["label"] for row in rows}) > 1
    for row, expected in zip(rows, probabilities.tolist(), strict=True):
        ranks = ["", "_2", "_3", "_4"]
        assert list(row) == ["file", *(name + rank for rank in ranks for name in ("label", "probability"))]
        said = {row[f"label{rank}"]: float(row[f"probability{rank}"]) for rank in ranks}
        assert said == pytest.approx(dict(zip(CLASS_NAMES, expected, strict=True)), abs=1e-6)
        assert list(said.values()) == sorted(said.values(), reverse=True)


def test_files_that_cannot_be_read_are_listed(model, images, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "huge.png").write_bytes(png_header_only(15_000, 15_000))
    whole = (images / "bar" / "colour.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "name without suffix").write_bytes(whole)
    bad = [tmp_path / name for name in ("text.png", "huge.png", "half.png", "absent.png")]
    good = [tmp_path / "name without suffix", images / "pole" / "grey.png"]
    status, rows, unread = predict(capsys, model, good[0], *bad, good[1], good[0], "--batch_size", 3)
    assert status == 1
    assert [row["file"] for row in rows] == [str(file) for file in good]
    assert [line.split(" (")[0] for line in unread] == [f"not read: {file}" for file in bad]
    assert "No such file" in unread[-1]

    assert (
        run_command("predict", ["--model", str(model), *map(str, bad), "--output_file", str(tmp_path / "new.csv")])
        == 2
    )
    error = error_line(capsys)
    assert "found none of 4 that can be read" in error and all(str(file) in error for file in bad)
    assert not (tmp_path / "new.csv").exists()


def test_output_files(model, images, tmp_path, capsys):
    _, rows, _ = predict(capsys, model, images, "--top_k", 2)
    assert (
        run_command(
            "predict", ["--model", str(model), str(images), "--top_k", "2", "--output_file", str(tmp_path / "a.csv")]
        )
        == 0
    )
    assert (
        run_command(
            "predict", ["--model", str(model), str(images), "--top_k", "2", "--output_file", str(tmp_path / "a.jsonl")]
        )
        == 0
    )
    with open(tmp_path / "a.csv", newline="") as stream:
        assert list(csv.DictReader(stream)) == rows
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [{name: str(value) for name, value in line.items()} for line in lines] == rows
    assert isinstance(lines[0]["probability"], float)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl"]


def test_mistakes_are_told_before_the_model_is_opened(tmp_path, images, capsys):
    (tmp_path / "empty").mkdir()
    for words, named in (
        ([images, "--top_k", 0], "--top_k: expected at least 1, found 0"),
        ([images, "--batch_size", "many"], "--batch_size: invalid int value: 'many'"),
        ([images, "--output_file", "out.xlsx"], "expected a name that ends in .csv or .jsonl, found out.xlsx"),
        ([images, "--topk", 1], "unknown option --topk in the command line; did you mean top_k?"),
        ([tmp_path / "empty"], f"expected image files in the folder {tmp_path / 'empty'}, found none"),
        ([], "FILE_OR_FOLDER"),
    ):
        assert run_command("predict", ["--model", "no model", *map(str, words)]) == 2
        assert named in error_line(capsys)
    assert run_command("predict", ["--model", "no model", str(images)]) == 2
    assert "--model no model: expected a folder or Hub id" in error_line(capsys)


def test_onnx_file_gives_the_same_logits(model, tmp_path, capsys):
    if run_command("export_onnx", ["--model", str(model), "--output_file", str(tmp_path / "model.onnx")]) == 2:
        assert "pip install 'hf_biasensemble[onnx]'" in error_line(capsys)
        assert list(tmp_path.iterdir()) == []
        pytest.skip("the extra `onnx` is not installed; without it, the command says so")
    import onnxruntime

    network, transform, geometry = load_classifier(str(model))
    inputs = transform(
        torch.randint(256, (5, 3, geometry.image_size, geometry.image_size), dtype=torch.uint8), training=False
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    ours = session.run(["logits"], {"pixel_values": inputs.numpy()})[0]
    with torch.inference_mode():
        expected = network(inputs).logits.numpy()
    assert expected.std() > 0.1 and np.abs(ours - expected).max() < 1e-4
    assert "largest difference of logits" in capsys.readouterr().out
