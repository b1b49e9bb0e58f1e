"""What is stored of an image of any shape, and that its centre is bitwise what timm's evaluation transform gives."""

import numpy as np
import pytest
import timm
import torch
from loaded import load_splits
from photographs import SHAPES, photograph, photograph_folder
from PIL import Image

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.pixels import decode_split
from hf_biasensemble.data.prepare import decode_splits
from hf_biasensemble.data.store.array_store import StoredArray


def by_timm(image: Image.Image, geometry: Geometry) -> torch.Tensor:
    transform = timm.data.create_transform(
        input_size=(3, geometry.image_size, geometry.image_size),
        crop_pct=geometry.crop_pct,
        crop_mode={"crop": "center", "squash": "squash"}[geometry.resize_mode],
        interpolation=geometry.interpolation,
        is_training=False,
        normalize=False,
    )
    return transform(image)


def stored(image: Image.Image, geometry: Geometry) -> torch.Tensor:
    return torch.from_numpy(np.array(geometry.resized(image))).permute(2, 0, 1)


@pytest.mark.parametrize("resize_mode", ["crop", "squash"])
@pytest.mark.parametrize("image_size", [224, 65])
@pytest.mark.parametrize("crop_pct, interpolation", [(0.875, "bicubic"), (0.95, "bilinear"), (1.0, "lanczos")])
def test_what_a_network_sees_is_bitwise_what_timm_shows_it(resize_mode, image_size, crop_pct, interpolation):
    geometry = Geometry(image_size, resize_mode, interpolation, crop_pct)
    seen = ImageTransform((0.0,) * 3, (1.0,) * 3, image_size=image_size).seen
    for number, (width, height) in enumerate(SHAPES):
        image = photograph(width, height, seed=number)
        ours = stored(image, geometry)
        assert ours.shape == (3, geometry.stored_size, geometry.stored_size)
        assert torch.equal(seen(ours), by_timm(image, geometry)), (width, height)


def test_every_remainder_of_the_crop_is_rounded_as_torchvision_does():
    """Of a resized side of 40 to 59 pixels, 35 to 40 are seen: whole and half pixels on either end."""
    for image_size in range(35, 41):
        geometry = Geometry(image_size, "crop", "bilinear", image_size / 40.5)
        assert geometry.stored_size == 40
        seen = ImageTransform((0.0,) * 3, (1.0,) * 3, image_size=image_size).seen
        for longer in range(40, 60):
            for shape in ((longer, 40), (40, longer)):
                image = photograph(*shape, seed=longer)
                assert torch.equal(seen(stored(image, geometry)), by_timm(image, geometry)), (image_size, shape)


def test_stored_margin_is_the_photograph_around_the_centre():
    image = photograph(60, 40)
    geometry = Geometry(30, "crop", "bilinear", 0.75)  # stored: 40 of the 60 columns, all rows
    assert geometry.stored_size == 40
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, :, 10:50]
    assert torch.equal(stored(image, geometry), expected)


def test_a_number_of_pixels_squashes_as_it_always_did():
    for number, (width, height) in enumerate(SHAPES):
        image = photograph(width, height, seed=number)
        expected = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR))
        assert np.array_equal(np.asarray(Geometry.of(28).resized(image)), expected)


def test_elongated_photograph_is_computed_in_part():
    """All of it would be 256 x 768,000 pixels."""
    line = photograph(3000, 1)
    ours = np.asarray(Geometry(224, "crop", "bicubic", 0.875).resized(line)).astype(int)
    whole = np.asarray(line.resize((768_000, 1), Image.Resampling.BICUBIC)).astype(int)
    start = (768_000 - 256) // 2
    assert ours.shape == (256, 256, 3)
    assert np.abs(ours - whole[:, start : start + 256]).max() <= 1


# Stores and memory ---------------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path):
    return load_splits(str(photograph_folder(tmp_path / "photographs", per_class=2)))["train"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_every_part_of_the_geometry_makes_another_store(split, cache):
    geometries = [
        Geometry(28),
        Geometry(28, resize_mode="crop"),
        Geometry(28, interpolation="bicubic"),
        Geometry(21, crop_pct=0.75),  # stored at 28 pixels as well
        Geometry(21, "crop", "bilinear", 0.75),
        Geometry(21, "crop", "bicubic", 0.75),
    ]
    stores = [decode_split(split, geometry, mapped=True).pixels.file for geometry in geometries]
    assert len(set(stores)) == len(geometries)
    for geometry in geometries:
        memory, mapped = decode_split(split, geometry), decode_split(split, geometry, mapped=True)
        assert memory.fingerprint == mapped.fingerprint and mapped.pixels.file in stores


def test_memory_limit_counts_what_is_stored(split, cache):
    geometry = Geometry(21, "crop", "bilinear", 0.75)
    size = len(split.labels) * 3 * 28 * 28
    for limit, mapped in ((size - 1, True), (size, False)):
        data_args = DataArguments(dataset_name="photographs", pixel_memory_limit=str(limit))
        decoded = decode_splits({"train": split}, data_args, geometry, skip_unreadable=False)["train"]
        assert isinstance(decoded.pixels, StoredArray) == mapped
