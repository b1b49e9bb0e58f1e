"""What `DatasetRepository` and the contact sheet do with any images."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic
from PIL import Image

from hf_biasensemble.data import repository


def columns(count):
    return {"label": np.arange(count) % 2, "is_conflicting": np.arange(count) % 3 == 0}


def test_row_groups_are_bounded_in_bytes(tmp_path, monkeypatch):
    images = [bytes([number]) * size for number, size in enumerate((40, 70, 10, 10, 200, 10))]
    monkeypatch.setattr(repository, "BYTES_PER_GROUP", 100)
    repository.DatasetRepository(tmp_path, ["a", "b"]).write_split("train", iter(images), columns(6), "1pct")
    file = pq.ParquetFile(tmp_path / "1pct" / "train-00000-of-00001.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [1, 3, 1, 1]
    rows = file.read().to_pylist()
    assert [row["image"]["bytes"] for row in rows] == images
    assert [(row["index"], row["label"]) for row in rows] == [(number, number % 2) for number in range(6)]


@pytest.mark.parametrize("count", [3, 5])
def test_as_many_images_as_labels(tmp_path, count):
    images = [synthetic.png(np.zeros((4, 4), np.uint8))] * count
    with pytest.raises(ValueError):
        repository.DatasetRepository(tmp_path, ["a", "b"]).write_split("train", images, columns(4))


def test_contact_sheet_shows_images_upright(tmp_path):
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[:, :40] = 255, 0, 0  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left half is the upper one
    content = synthetic.encoded(Image.fromarray(pixels), "PNG", exif=exif)
    sheet = np.asarray(repository.contact_sheet({(0, False): [content]}, ["a"], "title")).astype(int)
    rows, _ = np.nonzero((sheet[..., 0] > 200) & (sheet[..., 1] < 50))
    black = np.nonzero(sheet[72:].sum(axis=2) < 30)[0] + 72
    assert len(rows) > 3_000 and rows.max() - rows.min() < 60 and np.median(black) > rows.max()
