"""What was read before is not read again to see whether a store is its own; a changed image is never served old."""

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from loaded import load_splits
from synthetic import png

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data import decoding
from hf_biasensemble.data.geometry import Geometry
from hf_biasensemble.data.pixels import ImageSplit, decode_split
from hf_biasensemble.data.store import content as manifest
from hf_biasensemble.internal.errors import BiasEnsembleError

TICK = 20_000_000  # of the file systems that tests run on, with plenty to spare
COUNT = 6


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cold cache of its own for each test; gives the folder of the pixel stores."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "_TICK", TICK)
    return tmp_path / "cache" / "hf_biasensemble" / "pixels"


@pytest.fixture
def read(monkeypatch) -> list[dict]:
    """The images whose content was hashed."""
    seen: list[dict] = []
    hash_of_image = manifest._hash_of_image

    def watched(record):
        seen.append(record)
        return hash_of_image(record)

    monkeypatch.setattr(manifest, "_hash_of_image", watched)
    return seen


def grey(value: int) -> bytes:
    """A PNG file; all have the same size."""
    return png(np.full((4, 4, 3), value, np.uint8))


def settle() -> None:
    """Until what was written is older than a tick."""
    time.sleep(2 * TICK / 1e9)


def opened(folder: Path) -> ImageSplit:
    """The training split, mapped; it must be what decoding the files gives as they are now."""
    split = load_splits(str(folder))["train"]
    settle()  # also what `datasets` has just written of a table
    mapped = decode_split(split, 4, mapped=True, name="it")
    decoded = torch.from_numpy(np.concatenate(list(decoding.decode_rows(split.images, Geometry(4), {}))))
    assert torch.equal(mapped.pixels[mapped.rows], decoded[mapped.rows])
    assert mapped.fingerprint == replace(mapped, pixels=decoded).fingerprint
    return mapped


# Image files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(COUNT):
        file = tmp_path / "photos" / "train" / ("ant", "owl")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(grey(20 * number))
    return tmp_path / "photos"


def test_files_are_read_once(folder, read, cache):
    first = opened(folder).fingerprint
    assert len(read) == COUNT
    assert opened(folder).fingerprint == first
    assert len(read) == COUNT
    assert [file.suffix for file in cache.glob("*.[nm]*")].count(".manifest") == 1


def in_place(file: Path) -> None:
    with open(file, "r+b") as stream:
        stream.write(grey(199))


def in_place_with_time_restored(file: Path) -> None:
    before = file.stat()
    in_place(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)


def replaced(file: Path) -> None:
    other = file.with_suffix(".other")
    other.write_bytes(grey(199))
    os.replace(other, file)


def replaced_with_time_restored(file: Path) -> None:
    before = file.stat()
    replaced(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced_by_a_link(file: Path) -> None:
    other = file.parents[3] / "elsewhere.png"
    other.write_bytes(grey(199))
    file.unlink()
    file.symlink_to(other)


CHANGES = [in_place, in_place_with_time_restored, replaced, replaced_with_time_restored, replaced_by_a_link]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_file_is_seen_and_only_that_is_read(folder, read, change):
    first = opened(folder)
    file = folder / "train" / "ant" / "2.png"
    change(file)
    read.clear()
    changed = opened(folder)
    assert changed.fingerprint != first.fingerprint
    assert 199 in changed.pixels[changed.rows]
    assert [record["path"] for record in read] == [str(file)]
    file.unlink()
    file.write_bytes(grey(40))
    assert opened(folder).fingerprint == first.fingerprint


def test_files_that_swap_their_names_are_seen(folder, read):
    first = opened(folder)
    one, other = folder / "train" / "ant" / "0.png", folder / "train" / "ant" / "4.png"
    one.rename(folder / "kept")
    other.rename(one)
    (folder / "kept").rename(other)
    assert opened(folder).pixels[torch.tensor([0, 2])].flatten(1)[:, 0].tolist() == [80, 0]
    assert opened(folder).fingerprint != first.fingerprint


def test_deleted_and_added_files_are_seen_and_the_others_not_read(folder, read):
    opened(folder)
    (folder / "train" / "owl" / "3.png").unlink()
    read.clear()
    assert len(opened(folder)) == COUNT - 1
    assert read == []
    added = folder / "train" / "owl" / "7.png"
    added.write_bytes(grey(177))
    more = opened(folder)
    assert len(more) == COUNT and 177 in more.pixels[more.rows]
    assert [record["path"] for record in read] == [str(added)]


def test_a_file_that_was_touched_is_read_and_nothing_is_decoded_again(folder, read, cache):
    first = opened(folder)
    before = first.pixels.file.stat().st_ino
    (folder / "train" / "ant" / "0.png").touch()
    read.clear()
    again = opened(folder)
    assert len(read) == 1
    assert again.fingerprint == first.fingerprint and again.pixels.file == first.pixels.file
    assert again.pixels.file.stat().st_ino == before


def test_a_copy_elsewhere_has_the_same_store(folder, read, tmp_path, cache):
    first = opened(folder)
    folder.rename(tmp_path / "moved")
    again = opened(tmp_path / "moved")
    assert len(read) == 2 * COUNT
    assert again.fingerprint == first.fingerprint and again.pixels.file == first.pixels.file
    assert len(list(cache.glob("*.npy"))) == 1


def test_what_was_just_written_is_read_again(folder, read, monkeypatch):
    """Within one tick of the clock a file can be written, read and written again, and its times are the same."""
    monkeypatch.setattr(manifest, "_TICK", 10**15)
    for times in (1, 2):
        opened(folder)
        assert len(read) >= times * COUNT
    assert not list(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.manifest"))


def test_a_missing_file_is_looked_for_each_time(folder, tmp_path, read):
    table = tmp_path / "table.csv"
    rows = [f"photos/train/{('ant', 'owl')[number % 2]}/{number}.png,{number % 2}" for number in range(COUNT)]
    table.write_text("\n".join(["image,label", *rows]))
    missing = folder / "train" / "ant" / "2.png"
    missing.rename(tmp_path / "kept.png")
    settle()
    for _ in range(2):
        with pytest.raises(BiasEnsembleError, match="found 1 of 6 that are not: row 2"):
            decode_split(load_splits(str(table))["train"], 4, mapped=True)
    assert len(read) > COUNT
    (tmp_path / "kept.png").rename(missing)
    assert opened(table).pixels[torch.tensor([2])].max() == 40


def test_a_damaged_manifest_is_made_anew(folder, read, cache):
    first = opened(folder).fingerprint
    (file,) = cache.glob("*.manifest")
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"x" * len(content), content[:-1] + b"x"):
        file.write_bytes(damaged)
        read.clear()
        assert opened(folder).fingerprint == first
        assert len(read) == COUNT
    read.clear()
    assert opened(folder).fingerprint == first and read == []


def test_files_that_change_while_they_are_decoded_leave_no_store(folder, cache, monkeypatch):
    decode = decoding.decode_image

    def late(record, geometry):
        if record["path"].endswith("2.png"):
            in_place(Path(record["path"]))
        return decode(record, geometry)

    settle()
    monkeypatch.setattr(decoding, "decode_image", late)
    split = load_splits(str(folder))["train"]
    with pytest.raises(BiasEnsembleError, match="it: expected image files that stay as they are"):
        decode_split(split, 4, mapped=True, name="it")
    assert not list(cache.glob("*.npy"))


# Tables --------------------------------------------------------------------------------------------------------------


def parquet(folder: Path, greys: list[int]) -> Path:
    folder.mkdir(exist_ok=True)
    dataset(greys).to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def saved(folder: Path, greys: list[int]) -> Path:
    datasets.DatasetDict(train=dataset(greys)).save_to_disk(str(folder))
    return folder / "train" / "data-00000-of-00001.arrow"


def with_card(folder: Path, greys: list[int]) -> Path:
    """Class folders that `datasets` itself opens, since there is a card: its table names the files."""
    for number, value in enumerate(greys):
        file = folder / "train" / ("ant", "owl")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(grey(value))
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_dir: .\n---\n")
    return folder / "train" / "ant" / "2.png"


def dataset(greys: list[int]) -> datasets.Dataset:
    columns = {"image": [{"bytes": grey(value), "path": None} for value in greys], "label": [0, 1] * (len(greys) // 2)}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict(columns, features=features)


LAYOUTS = [parquet, saved, with_card]
GREYS = [0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_images_of_a_table_are_read_once(tmp_path, read, write):
    write(tmp_path / "data", GREYS)
    first = opened(tmp_path / "data").fingerprint
    assert len(read) == COUNT
    assert opened(tmp_path / "data").fingerprint == first
    assert len(read) == COUNT


@pytest.mark.parametrize("how", ["in place", "in place, time restored", "replaced", "replaced, time restored"])
@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_a_changed_table_is_seen(tmp_path, read, write, how):
    file = write(tmp_path / "data", GREYS)
    first = opened(tmp_path / "data")
    before, content = file.stat(), file.read_bytes()
    assert grey(40) in content
    content = content.replace(grey(40), grey(199))
    if how.startswith("in place"):
        with open(file, "r+b") as stream:
            stream.write(content)
    else:
        file.with_suffix(".other").write_bytes(content)
        os.replace(file.with_suffix(".other"), file)
    if how.endswith("restored"):
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    changed = opened(tmp_path / "data")
    assert 199 in changed.pixels[changed.rows] and changed.fingerprint != first.fingerprint


def test_images_in_memory_are_read_each_time(read, cache):
    images = dataset(GREYS).select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    for times in (1, 2):
        found = manifest.content_hashes(images)
        assert found.tobytes() == b"".join(hashlib.sha256(grey(value)).digest() for value in GREYS)
        assert len(read) == times * COUNT
    assert not list(cache.glob("*"))


# The cache -----------------------------------------------------------------------------------------------------------


def test_cache_lists_and_clears_manifests(folder, cache, capsys):
    opened(folder)
    (file,) = cache.glob("*.manifest")
    assert run_command("cache", []) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("manifest"))
    assert line.split()[-1] == "it"
    assert run_command("cache", ["--clear"]) == 0
    assert not file.exists()
    opened(folder)
