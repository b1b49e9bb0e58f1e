"""Counterfactual images, and what `hf-biasensemble explain` says of models that are known to read colour or shape."""

import csv
import re

import datasets
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from runs import error_line
from synthetic import png, write_parquet

from hf_biasensemble.cli.explain import short_names
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.evaluation.accuracy import wilson_interval
from hf_biasensemble.models.export import save_classifier
from hf_biasensemble.models.modeling_debiased import DebiasedImageClassifier, DebiasedImageClassifierConfig
from hf_biasensemble.reporting.explain.counterfactuals import (
    counterfactuals,
    masked,
    recolored,
    with_shuffled_patches,
    without_color,
)

VERSIONS = ["grey", "hue +120°", "hue +240°", "shuffled", "border masked", "centre masked"]
SIZE = 16
CLASSES = ["red left", "green right", "blue top"]


def images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# Images --------------------------------------------------------------------------------------------------------------


def test_grey_keeps_luminance_as_pil_has_it():
    pixels = images(2, 3, 9, 7)
    found = without_color(pixels)
    expected = [Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L") for image in pixels]
    for image, grey in zip(found, expected, strict=True):
        assert (image == image[:1]).all()
        assert np.abs(image[0].numpy().astype(int) - np.asarray(grey)).max() <= 1


@pytest.mark.parametrize("thirds", [1, 2])
def test_recolouring_turns_the_hue_and_keeps_saturation_and_brightness(thirds):
    pixels = images(1, 3, 8, 8)
    before, after = (
        np.asarray(Image.fromarray(image[0].permute(1, 2, 0).numpy()).convert("HSV")).astype(int)
        for image in (pixels, recolored(pixels, thirds))
    )
    assert np.array_equal(after[..., 1:], before[..., 1:])
    turned = (after[..., 0] - before[..., 0] - 85 * thirds + 128) % 256 - 128  # 256 levels are the circle
    assert np.abs(turned).max() <= 2
    grey = without_color(pixels)
    assert torch.equal(recolored(grey, thirds), grey)


def test_red_becomes_green_and_then_blue():
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert [recolored(red, thirds).flatten().tolist() for thirds in (1, 2)] == [[0, 200, 0], [0, 0, 200]]


@pytest.mark.parametrize("height, width", [(8, 8), (8, 12), (10, 15)])
def test_shuffling_moves_every_patch_whole(height, width):
    pixels = torch.arange(height * width).view(1, 1, height, width).expand(2, 3, -1, -1).to(torch.int64)
    found = with_shuffled_patches(pixels)
    high, wide = height // 4, width // 4
    patches = {
        tuple(image[:, top : top + high, left : left + wide].flatten().tolist()): (top, left)
        for image in (pixels[0],)
        for top in range(0, 4 * high, high)
        for left in range(0, 4 * wide, wide)
    }
    places = []
    for top in range(0, 4 * high, high):
        for left in range(0, 4 * wide, wide):
            place = patches[tuple(found[0, :, top : top + high, left : left + wide].flatten().tolist())]
            assert place != (top, left)
            places.append(place)
    assert sorted(places) == sorted(patches.values())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[..., 4 * high :, :], pixels[..., 4 * high :, :])
    assert torch.equal(found[..., 4 * wide :], pixels[..., 4 * wide :])
    assert torch.equal(with_shuffled_patches(pixels), found)
    assert not torch.equal(with_shuffled_patches(pixels, seed=1), found)


def test_masks_are_the_two_halves_of_the_image():
    pixels = images(2, 3, 64, 96).clamp(min=1)
    color = (0.2, 0.4, 1.0)
    border, centre = masked(pixels, inside=False, color=color), masked(pixels, inside=True, color=color)
    paint = torch.tensor([51, 102, 255], dtype=torch.uint8).view(3, 1, 1)
    kept, kept_outside = (border == pixels).all(1), (centre == pixels).all(1)
    assert torch.equal(kept[0], ~kept_outside[0]) and torch.equal(kept[0], kept[1])
    assert torch.equal(torch.where(kept[:, None], pixels, paint), border)
    assert torch.equal(torch.where(kept[:, None], paint, pixels), centre)
    assert kept[0].float().mean() == pytest.approx(0.5, abs=0.01)
    assert kept[0, 32, 48] and not kept[0, 0, 0]
    assert torch.equal(kept[0], kept[0].flip(0)) and torch.equal(kept[0], kept[0].flip(1))
    across, down = int(kept[0, 32].sum()), int(kept[0, :, 48].sum())
    assert across / 96 == pytest.approx(down / 64, abs=0.03)


def test_images_themselves_are_left_as_they_are():
    pixels = images(3, 3, 12, 12)
    before = pixels.clone()
    found = counterfactuals(pixels)
    assert list(found) == VERSIONS and torch.equal(pixels, before)
    for version in found.values():
        assert version.dtype == torch.uint8 and version.shape == pixels.shape
        assert not torch.equal(version, pixels)


# Models that are known -----------------------------------------------------------------------------------------------


def reading(folder, weights: torch.Tensor) -> str:
    """A saved classifier with these weights (classes, 3, SIZE, SIZE), which must give no negative logits."""
    labels = dict(enumerate(CLASSES))
    config = DebiasedImageClassifierConfig(
        hidden_sizes=[len(CLASSES)],
        image_size=SIZE,
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
    )
    model = DebiasedImageClassifier(config)
    with torch.no_grad():
        for layer, values in ((model.encoder.layers[0], weights.flatten(1)), (model.classifier, torch.eye(3))):
            layer.weight.copy_(values)
            layer.bias.zero_()
    save_classifier(model, ImageTransform((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), folder)
    return str(folder)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Two models, one that reads the mean colour and one that reads where it is bright, and images of each class with
    its colour and its shape."""
    folder = tmp_path_factory.mktemp("readers")
    colour = torch.zeros(3, 3, SIZE, SIZE)
    colour[range(3), range(3)] = 0.1
    shape = torch.full((3, 3, SIZE, SIZE), -0.1)
    shape[0, ..., : SIZE // 2] = shape[1, ..., SIZE // 2 :] = shape[2, :, : SIZE // 2] = 0.1
    columns: dict[str, list] = {"image": [], "label": []}
    generator = np.random.default_rng(0)
    for number in range(60):
        label = number % 3
        pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
        bright = (shape[label, 0] > 0).numpy()
        pixels[bright, label] = generator.integers(100, 256)
        columns["image"].append({"bytes": png(pixels), "path": f"{number}.png"})
        columns["label"].append(label)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    for split in ("train", "test"):
        write_parquet(folder / "data" / f"{split}.parquet", columns, features)
    return {
        "colour": reading(folder / "colour", colour),
        "shape": reading(folder / "shape", shape),
        "data": str(folder / "data"),
    }


def explain(**options: object) -> int:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        return run_command("explain", words)


def table(folder) -> dict[tuple[str, str], dict[str, str]]:
    with open(folder / "reliance.csv", newline="", encoding="utf-8") as stream:
        return {(row["model"], row["counterfactual"]): row for row in csv.DictReader(stream)}


def test_one_that_reads_colour_and_one_that_reads_shape_are_told_apart(readers, tmp_path, capsys):
    both = {"model": readers["shape"], "compare_with": readers["colour"], "dataset_name": readers["data"]}
    assert explain(**both, output_dir=tmp_path, format="svg") == 0
    found = table(tmp_path)
    assert list(found) == [(model, version) for model in ("colour", "shape") for version in VERSIONS]
    changed = {key: float(row["fraction"]) for key, row in found.items()}
    for version in ("hue +120°", "hue +240°"):
        assert changed["colour", version] == 1 and changed["shape", version] == 0
    assert changed["colour", "shuffled"] == 0 and changed["shape", "shuffled"] > 0.6
    assert changed["shape", "grey"] == 0
    assert changed["colour", "border masked"] == changed["colour", "centre masked"] == 0
    for row in found.values():
        share, images = int(row["changed"]) / 60, int(row["images"])
        assert images == 60 and float(row["fraction"]) == pytest.approx(share, abs=1e-4)
        low, high = wilson_interval(share, 60)
        assert (float(row["low"]), float(row["high"])) == pytest.approx((low, high), abs=1e-4)
    assert float(found["colour", "hue +120°"]["probability_change"]) < -0.5
    assert float(found["shape", "hue +120°"]["probability_change"]) == pytest.approx(0, abs=1e-4)
    # The same on the screen and in the picture.
    screen = capsys.readouterr()
    assert re.search(r"^hue \+120° +100 \(94-100\) +0 \(0-6\)$", screen.out, re.MULTILINE)
    assert "note: 0 of 60 images: colour wrong and shape right; no pictures of single images" in screen.err
    assert {file.name for file in tmp_path.iterdir()} == {"reliance.csv", "reliance.svg"}
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "reliance.svg").read_text())
    assert {*VERSIONS, "colour", "shape", "Predictions that change, 60 images"} <= set(drawn)


def test_single_images_show_which_predictions_change(readers, tmp_path, capsys):
    """Also without a second model and without bias labels."""
    options = {"model": readers["colour"], "dataset_name": readers["data"], "num_images": 3}
    assert explain(**options, output_dir=tmp_path, format="svg") == 0
    assert "wrote " + str(tmp_path / "counterfactuals.svg") in capsys.readouterr().out
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "counterfactuals.svg").read_text())
    assert "60 of 60 images: colour right" in drawn and {"original", *VERSIONS} <= set(drawn)
    said = np.array([text for text in drawn if text.removeprefix("→ ") in CLASSES]).reshape(3, -1)
    for number, (name, (truth, original, _, one_third, two_thirds, *others)) in enumerate(
        zip(CLASSES, said, strict=True)
    ):
        assert name == truth == original and others == [name] * 3
        assert one_third == f"→ {CLASSES[(number + 1) % 3]}" and two_thirds == f"→ {CLASSES[(number + 2) % 3]}"


@pytest.mark.slow
def test_images_are_drawn_by_a_fixed_seed_and_no_more_than_asked_for(readers, tmp_path):
    options = {"model": readers["shape"], "dataset_name": readers["data"], "num_reliance_images": 20, "batch_size": 7}
    assert explain(**options, output_dir=tmp_path / "one") == explain(**options, output_dir=tmp_path / "again") == 0
    found = table(tmp_path / "one")
    assert {row["images"] for row in found.values()} == {"20"} and found == table(tmp_path / "again")
    names = ("reliance.png", "counterfactuals.png")
    assert all((tmp_path / "one" / name).stat().st_size > 10_000 for name in names)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_reliance_images": 0}, "--num_reliance_images: expected at least 1, found 0"),
        ({"batch_size": 0}, "--batch_size: expected at least 1, found 0"),
        ({"format": "gif"}, "--format: expected one of png, svg, pdf, found gif"),
        ({"output_file": "reliance.png"}, "did you mean output_dir?"),
    ],
)
def test_mistakes_are_one_line(readers, tmp_path, capsys, options, message):
    assert explain(model=readers["shape"], dataset_name=readers["data"], **options) == 2
    assert message in error_line(capsys)


def test_models_have_the_shortest_names_that_tell_them_apart():
    assert short_names(["outputs/erm", "outputs/lff_be"]) == ["erm", "lff_be"]
    assert short_names(["out/erm/seed_0", "out/lff/seed_0"]) == ["erm/seed_0", "lff/seed_0"]
    assert short_names(["me/model"]) == ["model"]
    assert len(set(short_names(["erm", "out/erm"]))) == 2
