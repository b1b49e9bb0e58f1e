"""Normalisation to the bit, and crops and flips against one image at a time."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from hf_biasensemble.data.batches.transforms import ImageTransform, random_crop_and_flip

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def naive_crop(image: torch.Tensor, padding: int, top: int, left: int, mirrored: bool) -> torch.Tensor:
    """Pixel by pixel: what stands at (y, x) of the crop stood at (y + top - padding, ...) of the image."""
    channels, height, width = image.shape
    crop = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            from_y = y + top - padding
            from_x = (width - 1 - x if mirrored else x) + left - padding
            if 0 <= from_y < height and 0 <= from_x < width:
                crop[:, y, x] = image[:, from_y, from_x]
    return crop


def draws(count: int, padding: int, flip: bool, seed: int) -> tuple[list, list, list]:
    """The draws of the library under this seed: offsets of all images, then flips of all images."""
    torch.manual_seed(seed)
    top, left = torch.randint(2 * padding + 1, (2, count, 1)).flatten(1).tolist()
    mirrored = (torch.rand(count, 1) < 0.5).flatten().tolist() if flip else [False] * count
    return top, left, mirrored


@pytest.mark.parametrize("mean, std", [(MEAN, STD), ((0.0,) * 3, (1.0,) * 3), ((0.0,) * 3, (255.0,) * 3)])
def test_normalisation_is_bitwise_the_formula(mean, std):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    ours = ImageTransform(mean, std)(pixels, training=False)
    expected = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


def test_input_is_left_as_it_was():
    pixels = images(4, 3, 6, 6)
    before = pixels.clone()
    ImageTransform(MEAN, STD, crop_padding=2, horizontal_flip=True)(pixels, training=True)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("padding, flip", [(0, True), (1, False), (4, True), (9, True)])
@pytest.mark.parametrize("height, width", [(7, 7), (5, 9)])
def test_crops_and_flips_equal_one_image_at_a_time(padding, flip, height, width):
    batch = images(12, 3, height, width)
    top, left, mirrored = draws(len(batch), padding, flip, seed=5)
    torch.manual_seed(5)
    ours = random_crop_and_flip(batch, padding, flip)
    assert ours.dtype == torch.uint8
    for number, image in enumerate(batch):
        expected = naive_crop(image, padding, top[number], left[number], mirrored[number])
        assert torch.equal(ours[number], expected)


def test_offsets_and_flips_are_uniform_and_independent():
    padding, count = 2, 20_000
    marked = torch.zeros(count, 1, 9, 9, dtype=torch.uint8)
    marked[:, 0, 4, 3] = 1  # left of the middle: tells mirrored from shifted
    marked[:, 0, 4, 4] = 2
    moved = random_crop_and_flip(marked, padding, flip=True)[:, 0].flatten(1)
    middle, beside = (moved == 2).int().argmax(1), (moved == 1).int().argmax(1)
    mirrored = beside == middle + 1
    assert torch.equal(beside == middle - 1, ~mirrored)
    cells = torch.zeros(2, 5, 5)
    cells.index_put_((mirrored.long(), middle // 9 - 2, middle % 9 - 2), torch.ones(count), accumulate=True)
    # 50 cells of 400 expected each; five standard deviations are 100.
    assert cells.min() > 300 and cells.max() < 500


@pytest.mark.parametrize("size", [5, 224])  # of 224 pixels, a batch is done in pieces
def test_same_draws_give_the_pixels_of_torchvision_one_image_at_a_time(size):
    padding, batch = 3, images(20, 3, size, size)
    top, left, mirrored = draws(len(batch), padding, True, seed=8)
    torch.manual_seed(8)
    ours = ImageTransform(MEAN, STD, crop_padding=padding, horizontal_flip=True)(batch, training=True)
    for number, image in enumerate(batch):
        moved = functional.crop(functional.pad(image, [padding]), top[number], left[number], size, size)
        moved = functional.horizontal_flip(moved) if mirrored[number] else moved
        expected = functional.normalize(functional.to_dtype(moved, torch.float32, scale=True), MEAN, STD)
        assert torch.allclose(ours[number], expected, atol=1e-6)
    assert len(set(zip(top, left, mirrored, strict=True))) > 10


def test_offsets_and_flips_are_distributed_as_those_of_torchvision():
    padding, count = 2, 8000
    marked = torch.zeros(1, 9, 9, dtype=torch.uint8)
    marked[0, 4, 3], marked[0, 4, 4] = 1, 2
    theirs = v2.Compose([v2.RandomCrop(9, padding=padding), v2.RandomHorizontalFlip()])
    samples = {
        "ours": random_crop_and_flip(marked.expand(count, 1, 9, 9), padding, flip=True),
        "theirs": torch.stack([theirs(marked) for _ in range(count)]),
    }
    cells = {name: torch.unique(sample.flatten(1), dim=0, return_counts=True) for name, sample in samples.items()}
    assert torch.equal(cells["ours"][0], cells["theirs"][0]) and len(cells["ours"][0]) == 50
    ours, expected = (cells[name][1].double() for name in ("ours", "theirs"))
    # Chi-squared of two samples with 49 degrees of freedom: 95 is exceeded once in ten thousand times.
    assert ((ours - expected) ** 2 / (ours + expected)).sum() < 95


def test_flip_alone_mirrors_about_half_and_changes_nothing_else():
    batch = images(400, 3, 4, 5)
    flipped = random_crop_and_flip(batch, 0, flip=True)
    mirrored = (flipped == batch.flip(-1)).flatten(1).all(1)
    kept = (flipped == batch).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 140 < int(mirrored.sum()) < 260


def test_every_image_and_member_has_a_draw_of_its_own():
    one = images(1, 1, 3, 8, 8)
    batch = one.expand(6, 4, 3, 8, 8)
    transform = ImageTransform((0.0,) * 3, (1.0,) * 3, crop_padding=4, horizontal_flip=True)
    out = transform(batch, training=True)
    assert out.shape == batch.shape
    assert len(torch.unique(out.flatten(0, 1).flatten(1), dim=0)) > 12


def test_member_batches_equal_the_same_images_in_a_row():
    batch = images(5, 3, 3, 8, 8)
    transform = ImageTransform(MEAN, STD, crop_padding=3, horizontal_flip=True)
    torch.manual_seed(1)
    members = transform(batch, training=True)
    torch.manual_seed(1)
    row = transform(batch.flatten(0, 1), training=True)
    assert torch.equal(members.flatten(0, 1), row)


def test_evaluation_does_not_augment():
    pixels = images(8, 3, 8, 8)
    augmenting = ImageTransform(MEAN, STD, crop_padding=4, horizontal_flip=True)
    assert torch.equal(augmenting(pixels, training=False), ImageTransform(MEAN, STD)(pixels, training=True))
    assert not torch.equal(augmenting(pixels, training=True), augmenting(pixels, training=False))


def test_without_augmentation_no_random_number_is_drawn():
    pixels = images(2, 3, 4, 4)
    state = torch.get_rng_state()
    ImageTransform(MEAN, STD)(pixels, training=True)
    assert torch.equal(torch.get_rng_state(), state)
