"""Random parts of photographs and their colours: as torchvision draws and computes them, each image by itself."""

import math

import numpy as np
import pytest
import torch
from photographs import BACKBONE, photograph, photograph_folder, weights_file
from runs import train
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as torchvision_functional

from hf_biasensemble.arguments import DebiasingArguments, ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform, random_colors, random_resized_crop
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.selection import Selection
from hf_biasensemble.trainers.batch_part import BatchPart

PLAIN = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}


def places(count: int, height: int, width: int) -> torch.Tensor:
    """Images whose channels say where a pixel is: x, y and nothing, as shares of the sides."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    return torch.stack([x, y, torch.zeros_like(x)]).expand(count, -1, -1, -1)


def boxes(crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Left, top, width and height (B,) of the parts, as shares of the sides, and which ones are mirrored."""
    size = crops.shape[-1]
    middle = size // 2
    # Two pixels around the middle, where no border is near, tell place and width of the whole part.
    across = crops[:, 0, middle, middle] - crops[:, 0, middle, middle - 1]
    down = crops[:, 1, middle, middle] - crops[:, 1, middle - 1, middle]
    x = crops[:, 0, middle, middle - 1 : middle + 1].mean(dim=-1)
    y = crops[:, 1, middle - 1 : middle + 1, middle].mean(dim=-1)
    wide, high = across.abs() * size, down * size
    return x - wide / 2, y - high / 2, wide, high, across < 0


def box_by_hand(draws: list[float], height: int, width: int) -> tuple[float, ...]:
    """What torchvision does, written for one image: ten tries at area and aspect ratio, then the whole image."""
    areas, aspects, (left, top, mirrored) = draws[:10], draws[10:20], draws[20:]
    wide, high = 1.0, 1.0
    for area, aspect in zip(areas, aspects, strict=True):
        area = (0.4 + 0.6 * area) * height * width
        ratio = math.exp(math.log(3 / 4) + aspect * (math.log(4 / 3) - math.log(3 / 4)))
        if math.sqrt(area * ratio) <= width and math.sqrt(area / ratio) <= height:
            wide, high = math.sqrt(area * ratio) / width, math.sqrt(area / ratio) / height
            break
    return left * (1 - wide), top * (1 - high), wide, high, float(mirrored < 0.5)


@pytest.mark.parametrize("height, width", [(64, 64), (48, 80)])
def test_each_image_shows_the_part_that_its_own_draw_names(height, width):
    count = 200
    torch.manual_seed(3)
    found = boxes(random_resized_crop(places(count, height, width), 32))
    torch.manual_seed(3)
    draws = torch.rand(23, count).T.tolist()
    for number in range(count):
        expected = box_by_hand(draws[number], height, width)
        assert [float(values[number]) for values in found] == pytest.approx(expected, abs=2e-4)
    assert len({round(float(left), 4) for left in found[0]}) > 150


def test_parts_are_distributed_as_those_of_torchvision():
    count, side = 20_000, 64
    left, top, wide, high, _ = boxes(random_resized_crop(places(count, side, side), 4))
    torch.manual_seed(9)
    theirs = RandomResizedCrop(32, scale=(0.4, 1.0), ratio=(3 / 4, 4 / 3))
    image = torch.zeros(3, 6400, 6400, dtype=torch.uint8).expand(3, 6400, 6400)  # many pixels: hardly any rounding
    drawn = [theirs.make_params([image]) for _ in range(5000)]
    t_wide, t_high = (np.array([one[name] for one in drawn]) / 6400 for name in ("width", "height"))
    t_left, t_top = (np.array([one[name] for one in drawn]) / 6400 for name in ("left", "top"))
    pairs = {
        "area": (wide * high, t_wide * t_high),
        "aspect": (wide / high, t_wide / t_high),
        "left": (left / (1 - wide).clamp(min=1e-3), t_left / (1 - t_wide).clip(min=1e-3)),
        "top": (top, t_top),
    }
    for name, (ours, expected) in pairs.items():
        ours = np.sort(ours.numpy())
        ranks = np.searchsorted(ours, np.sort(expected)) / count
        distance = np.abs(ranks - (np.arange(5000) + 0.5) / 5000).max()
        assert distance < 0.031, name  # Kolmogorov-Smirnov: once in a thousand times for equal distributions


def test_half_are_mirrored():
    mirrored = boxes(random_resized_crop(places(4000, 16, 16), 8))[-1]
    assert 1840 < int(mirrored.sum()) < 2160  # five standard deviations


def test_pixels_are_those_of_torchvisions_resizing():
    image = torch.from_numpy(np.array(photograph(64, 64, seed=1))).permute(2, 0, 1)[None].float()
    torch.manual_seed(0)
    crops = random_resized_crop(image.expand(20, -1, -1, -1), 40)
    torch.manual_seed(0)
    left, top, wide, high, mirrored = boxes(random_resized_crop(places(20, 64, 64), 40))
    for number in range(20):
        x = left[number] + wide[number] * (torch.arange(40) + 0.5) / 40
        y = top[number] + high[number] * (torch.arange(40) + 0.5) / 40
        if mirrored[number]:
            x = x.flip(0)
        columns, rows = (64 * x - 0.5).clamp(0, 63), (64 * y - 0.5).clamp(0, 63)
        expected = torch.zeros(3, 40, 40)
        for dy in (0, 1):
            for dx in (0, 1):
                row, column = (rows.floor() + dy).clamp(max=63), (columns.floor() + dx).clamp(max=63)
                weight_y = 1 - (rows - rows.floor() - dy).abs()
                weight_x = 1 - (columns - columns.floor() - dx).abs()
                expected += weight_y[:, None] * weight_x * image[0][:, row.long()][:, :, column.long()]
        assert (crops[number] - expected).abs().max() < 0.1


def test_no_black_comes_in_at_the_borders():
    white = torch.full((200, 3, 16, 16), 255, dtype=torch.uint8)
    assert random_resized_crop(white, 32).min() > 254.9


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_parts_of_a_batch_get_what_one_process_draws_for_the_whole(jitter):
    transform = ImageTransform(**PLAIN, augmentation="photographs", image_size=24, color_jitter=jitter)
    pixels = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(2)
    whole = transform.augment(pixels)
    for first in (0, 5):
        torch.manual_seed(2)  # the random states of the processes are alike
        part = BatchPart(first=first, num_samples=10, step_samples=10, num_parts=2)
        assert torch.equal(transform.augment(pixels[first : first + 5], part.draw), whole[first : first + 5])


# Colours -------------------------------------------------------------------------------------------------------------


def test_colours_are_those_of_torchvision_under_the_same_draws():
    images = torch.stack(
        [torch.from_numpy(np.array(photograph(30, 20, seed=seed))).permute(2, 0, 1) for seed in range(12)]
    )
    torch.manual_seed(6)
    found = random_colors(images.float(), 0.4)
    torch.manual_seed(6)
    factors = 0.6 + 0.8 * torch.rand(3, 12)
    for number, (brightness, contrast, saturation) in enumerate(factors.T.tolist()):
        expected = torchvision_functional.adjust_brightness(images[number].float() / 255, brightness)
        expected = torchvision_functional.adjust_contrast(expected, contrast)
        expected = torchvision_functional.adjust_saturation(expected, saturation)
        assert (found[number] / 255 - expected).abs().max() < 1e-3
    assert found.min() >= 0 and found.max() <= 255


def test_colours_stay_unless_jitter_is_asked_for():
    grey = torch.randint(256, (6, 1, 32, 32), dtype=torch.uint8)
    pixels = torch.cat([grey, grey, 255 - grey], dim=1)
    given = {**PLAIN, "augmentation": "photographs", "image_size": 24}
    plain = ImageTransform(**given).augment(pixels)
    torch.testing.assert_close(plain[:, 0], plain[:, 1])
    torch.testing.assert_close(plain[:, 2], 255 - plain[:, 0])
    jittered = ImageTransform(**given, color_jitter=0.4).augment(pixels)
    assert (jittered[:, 2] - 255 + jittered[:, 0]).abs().amax(dim=(1, 2)).min() > 5


# Training ------------------------------------------------------------------------------------------------------------


def test_training_sees_the_margin_and_evaluation_the_centre():
    pixels = torch.zeros(64, 3, 40, 40, dtype=torch.uint8)
    pixels[:, :, 4:36, 4:36] = 255
    for augmentation, sees_margin in (("none", False), ("photographs", True)):
        model_args = ModelArguments(image_size=32, crop_pct=0.8, resize_mode="crop")
        transform = image_transform(model_args, augmentation)
        assert transform(pixels, training=False).min() == 1
        seen = transform(pixels, training=True)
        assert seen.shape == (64, 3, 32, 32)
        assert (seen.min() == 0) == sees_margin


def test_members_see_the_centre():
    """Of batches (B, M, C, H, W), one for each member."""
    transform = image_transform(ModelArguments(image_size=32, crop_pct=0.8, resize_mode="crop"))
    pixels = torch.randint(256, (5, 3, 3, 40, 40), dtype=torch.uint8)
    seen = transform(pixels, training=True)
    assert torch.equal(seen, pixels[..., 4:36, 4:36] / 255)


@pytest.mark.slow
def test_both_networks_but_no_member_see_the_augmentation(tmp_path):
    data = photograph_folder(tmp_path / "data")
    given = {"backbone": BACKBONE, "pretrained_weights": weights_file(tmp_path / "weights.safetensors")}
    given |= {"image_size": 32, "max_steps": 3, "member_steps": 2, "member_threshold": 0, "member_agreement": 1}
    more = {"none": {}, "photographs": {}, "colours": {"augmentation": "photographs", "color_jitter": 0.4}}
    for name, changes in more.items():
        changes = {"augmentation": name, **changes}
        assert train(data, tmp_path / name, "lff_be", **given, **changes) == 0
    votes = [Selection.load(tmp_path / name / "selection").mean_probability.tolist() for name in more]
    assert votes[0] == votes[1] == votes[2]
    models = {(tmp_path / name / "model.safetensors").read_bytes() for name in more}
    assert len(models) == 3


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"augmentation": "photos"}, "--augmentation: expected one of none, affine, photographs, found photos"),
        ({"color_jitter": 0.4}, "--color_jitter: expected --augmentation photographs with it, found none"),
        ({"color_jitter": 1.5, "augmentation": "photographs"}, r"--color_jitter: expected in \[0, 1\], found 1.5"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes, expected, tmp_path):
    with pytest.raises(BiasEnsembleError, match=expected):
        DebiasingArguments(output_dir=str(tmp_path), **changes)
