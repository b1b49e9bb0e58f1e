"""Decoded images in a cached file: the same as in memory, built once, checked when opened, whole or not there."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Features, Value
from filelock import FileLock
from fresh_python import environment
from loaded import load_splits
from synthetic import png, write_parquet
from torch.utils.data import DataLoader

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.pixels import decode_split
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.data.store import array_store
from hf_biasensemble.data.store.making import Store
from hf_biasensemble.internal.errors import BiasEnsembleError

SIZE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cold cache of its own for each test; gives the folder of the pixel stores."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hf_biasensemble" / "pixels"


@pytest.fixture(scope="module")
def split(digits):
    return load_splits(str(digits))["train"]


def stores(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.npy"))


def identity(file: Path) -> int:
    """Another one for a file that took the place of this one."""
    return file.stat().st_ino


# The same as in memory -----------------------------------------------------------------------------------------------


def test_mapped_pixels_are_those_in_memory(split, cache):
    memory, mapped = decode_split(split, SIZE), decode_split(split, SIZE, mapped=True)
    rows = torch.tensor([7, 0, 7, 95])
    assert torch.equal(mapped.pixels[rows], memory.pixels[rows])
    for name, values in mapped.__getitems__([95, 3]).items():
        assert torch.equal(values, memory.__getitems__([95, 3])[name])
    assert mapped.pixels.shape == memory.pixels.shape and len(mapped) == len(memory)
    assert len(stores(cache)) == 1


def test_memory_limit_decides_where_the_pixels_are(digits):
    size = (96 + 32 + 64) * 3 * 8 * 8
    for limit, kind in ((size, "Tensor"), (size - 1, "StoredArray")):
        splits = load_image_splits(DataArguments(dataset_name=str(digits), pixel_memory_limit=str(limit)), 8)
        assert {type(split.pixels).__name__ for split in splits.values()} == {kind}


def test_fingerprint_is_that_of_the_images_in_memory(split):
    memory, mapped = decode_split(split, SIZE), decode_split(split, SIZE, mapped=True)
    assert mapped.fingerprint == memory.fingerprint
    assert mapped.select(np.array([3, 5])).fingerprint == memory.select(np.array([3, 5])).fingerprint
    assert mapped.fingerprint != mapped.select(np.array([3, 5])).fingerprint


def test_changing_a_batch_in_place_changes_no_later_one(split, cache):
    mapped = decode_split(split, SIZE, mapped=True)
    before = mapped.__getitems__([4])["pixel_values"].clone()
    content = stores(cache)[0].read_bytes()
    mapped.__getitems__([4])["pixel_values"].zero_()
    assert before.any() and torch.equal(mapped.__getitems__([4])["pixel_values"], before)
    assert stores(cache)[0].read_bytes() == content


def test_copies_in_other_processes_map_the_same_file(split):
    mapped = decode_split(split, SIZE, mapped=True)
    copy = pickle.dumps(mapped.pixels)
    assert len(copy) < 1000
    assert torch.equal(pickle.loads(copy)[torch.arange(96)], mapped.pixels[torch.arange(96)])
    loader = DataLoader(mapped, batch_size=32, num_workers=1, collate_fn=lambda batch: batch)
    seen = torch.cat([batch["pixel_values"] for batch in loader])
    assert torch.equal(seen, mapped.pixels[torch.arange(96)])


def test_unreadable_rows_are_remembered(tmp_path, cache):
    good = {"bytes": png(np.full((4, 4, 3), 9, np.uint8)), "path": "good.png"}
    images = [good, {"bytes": b"words", "path": "bad.png"}, good]
    features = Features({"image": datasets.Image(), "label": Value("int64")})
    write_parquet(tmp_path / "data" / "train.parquet", {"image": images, "label": [0, 1, 1]}, features)
    bad = load_splits(str(tmp_path / "data"))["train"]
    for _ in range(2):
        with pytest.raises(BiasEnsembleError, match=r"found 1 of 3 that are not: row 1 \(bad.png: not an image\)"):
            decode_split(bad, 4, mapped=True)
        kept = decode_split(bad, 4, mapped=True, skip_unreadable=True)
        assert kept.rows.tolist() == [0, 2] and [image.row for image in kept.unreadable] == [1]
    assert kept.fingerprint == decode_split(bad, 4, skip_unreadable=True).fingerprint
    assert len(stores(cache)) == 1


# Which store ---------------------------------------------------------------------------------------------------------


def test_a_store_is_used_again_and_says_nothing(split, cache, capsys):
    decode_split(split, SIZE, mapped=True)
    first = identity(stores(cache)[0])
    decode_split(split, SIZE, mapped=True)
    assert [identity(file) for file in stores(cache)] == [first]
    assert capsys.readouterr().out == ""


def image_folder(folder: Path) -> Path:
    for number in range(6):
        file = folder / "train" / ("ant", "owl")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(np.full((4, 4, 3), 10 * number, np.uint8)))
    return folder


def mapped_from(folder: Path, image_size: int = 4):
    return decode_split(load_splits(str(folder))["train"], image_size, mapped=True)


def test_the_content_of_the_files_decides_and_not_their_place_or_time(tmp_path, cache):
    first, second = image_folder(tmp_path / "a"), image_folder(tmp_path / "b")
    mapped_from(first)
    os.utime(next(second.rglob("*.png")), (0, 0))
    mapped_from(second)
    assert len(stores(cache)) == 1
    changed = first / "train" / "ant" / "2.png"
    before = changed.stat()
    changed.write_bytes(png(np.full((4, 4, 3), 77, np.uint8)))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as an unpacked archive might leave it
    assert changed.stat().st_size == before.st_size
    assert 77 in mapped_from(first).pixels[torch.arange(6)]
    assert len(stores(cache)) == 2


def test_size_and_order_of_the_images_make_another_store(tmp_path, cache):
    folder = image_folder(tmp_path / "a")
    mapped_from(folder)
    mapped_from(folder, image_size=5)
    assert len(stores(cache)) == 2
    (folder / "train" / "ant" / "0.png").rename(folder / "train" / "ant" / "9.png")
    assert mapped_from(folder).pixels[torch.tensor([2])].max() == 0
    assert len(stores(cache)) == 3


# Damage --------------------------------------------------------------------------------------------------------------


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


DAMAGE = {
    "nothing in it": (lambda content: b"", "has 0 bytes, not 73,856"),
    "only its beginning": (lambda content: content[:1000], "has 1,000 bytes"),
    "last byte missing": (lambda content: content[:-1], "has 73,855 bytes"),
    "a byte of the header": (lambda content: flipped(content, 0), "is no array"),
    "another shape": (
        lambda content: content.replace(b"(96, 3, 16, 16)", b"(48, 6, 16, 16)"),
        "holds an array (48, 6",
    ),
    "another type": (lambda content: content.replace(b"'|u1'", b"'|i1'"), "holds an array (96, 3, 16, 16) of int8"),
    "first byte": (lambda content: flipped(content, 128), "was altered: its checksum"),
    "a byte in the middle": (lambda content: flipped(content, 40_000), "was altered: its checksum"),
    "last byte": (lambda content: flipped(content, len(content) - 1), "was altered: its checksum"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_store_is_made_again_and_that_is_said(split, cache, capsys, kind):
    damage, reason = DAMAGE[kind]
    expected = decode_split(split, SIZE, mapped=True).fingerprint
    (file,) = stores(cache)
    content = file.read_bytes()
    assert damage(content) != content
    file.write_bytes(damage(content))
    again = decode_split(split, SIZE, mapped=True)
    assert again.fingerprint == expected == decode_split(split, SIZE).fingerprint
    assert file.read_bytes() == content
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and reason in lines[0] and str(file) in lines[0]


@pytest.mark.parametrize("content", ["", "{}", "words", '{"sha256": "0"}', "[1]"])
def test_store_whose_description_cannot_be_read_is_made_again(split, cache, capsys, content):
    expected = decode_split(split, SIZE, mapped=True).fingerprint
    beside = stores(cache)[0].with_suffix(".json")
    beside.write_text(content)
    assert decode_split(split, SIZE, mapped=True).fingerprint == expected
    assert "that cannot be read; making it again" in capsys.readouterr().out
    beside.unlink()
    assert decode_split(split, SIZE, mapped=True).fingerprint == expected
    assert capsys.readouterr().out == "" and beside.exists()


def test_altered_store_is_noticed_though_its_size_is_not(split, cache):
    """Writing changes the time of modification, and then all of it is checked; touching does no harm."""
    expected = decode_split(split, SIZE)
    decode_split(split, SIZE, mapped=True)
    (file,) = stores(cache)
    with open(file, "r+b") as stream:
        stream.seek(200)
        stream.write(b"x" * 10)
    again = decode_split(split, SIZE, mapped=True)
    assert torch.equal(again.pixels[again.rows], expected.pixels[expected.rows])
    (file,) = stores(cache)
    before = identity(file)
    os.utime(file)
    assert decode_split(split, SIZE, mapped=True).fingerprint == expected.fingerprint
    stated = json.loads(file.with_suffix(".json").read_text())
    assert identity(file) == before and file.stat().st_mtime_ns == stated["mtime_ns"]


def test_verified_store_is_refused_if_damaged_though_its_time_says_nothing(digits, cache, capsys):
    data_args = DataArguments(dataset_name=str(digits), pixel_memory_limit="0", verify_pixels=True)
    expected = load_image_splits(data_args, SIZE)["train"].fingerprint
    assert load_image_splits(data_args, SIZE)["train"].fingerprint == expected
    for file in stores(cache):
        content, time = file.read_bytes(), file.stat().st_mtime_ns
        file.write_bytes(flipped(content, 1000))
        os.utime(file, ns=(time, time))
        load_image_splits(DataArguments(dataset_name=str(digits), pixel_memory_limit="0"), SIZE)  # taken on trust
        words = ["--dataset_name", str(digits), "--pixel_memory_limit", "0", "--image_size", str(SIZE)]
        assert run_command("check_data", [*words, "--verify_pixels", "true"]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line == (
            "error: --verify_pixels: expected pixels as they were written, found that "
            f"{file} was altered: its checksum is not the one that was stated; remove it to have them made again"
        )
        file.unlink()
        assert load_image_splits(data_args, SIZE)["train"].fingerprint == expected
        assert file.read_bytes() == content


def test_parts_that_were_begun_are_kept_but_for_those_that_a_crash_lost(cache):
    values, made = np.arange(600).astype(np.uint8).reshape(200, 3), []

    def blocks(rows, notes):
        made.append(rows.start)
        notes[rows.start] = "made"
        yield values[rows.start : rows.stop]

    store = Store("pixels", "begun", values.shape, values.dtype, blocks)
    store.help()
    assert made == [192, 128, 64, 0]
    with open(store.folder / "array.npy", "rb+") as stream:
        stream.truncate(stream.seek(0, os.SEEK_END) - 1)
    (store.folder / "64.json").write_text('{"sha256": "of an earlier version"}')
    array, notes = array_store.open_or_make(store)
    assert made[4:] == [64, 192] and set(notes) == {"0", "64", "128", "192"}
    assert torch.equal(array[torch.arange(200)], torch.from_numpy(values))
    assert array_store.digest_of(array) == array_store.digest_of(torch.from_numpy(values))
    assert not store.folder.exists()


@pytest.mark.parametrize("read_only", [True, False])
def test_complete_store_in_a_folder_that_cannot_be_written_serves(tmp_path, cache, read_only):
    """For the administrator no folder is read-only, but where a folder has the place of a lock nobody gets it."""
    folder = image_folder(tmp_path / "a")
    expected = mapped_from(folder)
    for file in (*cache.glob("*.npy"), *cache.glob("*.manifest")):
        file.with_suffix(".lock").unlink(missing_ok=True)
        if not read_only:
            file.with_suffix(".lock").mkdir()
    cache.chmod(0o555 if read_only else 0o755)
    try:
        again = mapped_from(folder)
        assert again.fingerprint == expected.fingerprint and again.pixels.file == expected.pixels.file
    finally:
        cache.chmod(0o755)


def test_where_the_cache_cannot_be_written_images_are_decoded_into_memory_and_that_is_said(split, cache, capsys):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder is to be")
    found = decode_split(split, SIZE)
    (line,) = capsys.readouterr().out.splitlines()
    assert "could not be written to" in line and line.endswith("each run decodes the images anew, into memory")
    with pytest.raises(BiasEnsembleError, match="could not be written to .* set HF_DATASETS_CACHE"):
        decode_split(split, SIZE, mapped=True)
    cache.unlink()
    assert torch.equal(decode_split(split, SIZE).pixels, found.pixels)


def read_from_disk() -> int:
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads /proc")
def test_a_random_batch_of_a_large_store_reads_its_images_and_not_what_lies_around(tmp_path, monkeypatch):
    monkeypatch.setattr(array_store, "_SMALL", 0)
    shape, file = (400, 3, 224, 224), tmp_path / "large.npy"
    content = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with open(file, "wb") as stream:
        np.save(stream, content)
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pixels, rows = array_store.StoredArray(file, ""), torch.tensor([350, 50, 399, 0])
    before = read_from_disk()
    batch = pixels.index_select(0, rows)
    read = read_from_disk() - before
    assert torch.equal(batch, torch.from_numpy(content)[rows])
    if read == 0:
        pytest.skip("the file is not on a disk")
    assert read < 2 * content[:4].nbytes


@pytest.mark.slow
def test_store_of_193_gigabytes_opens_at_once_and_takes_no_memory(tmp_path):
    """1.28 million images of 224 pixels, in a sparse file: more than the memory of the machine."""
    shape = (1_281_167, 3, 224, 224)
    file = tmp_path / "large.npy"
    with open(file, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        stream.truncate(stream.tell() + int(np.prod(shape)))
    found = file.stat()
    stated = {"sha256": "0" * 64, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "notes": {}, "source": ""}
    file.with_suffix(".json").write_text(json.dumps(stated))
    program = f"""
import resource, torch
from pathlib import Path
from hf_biasensemble.data.store import array_store
from hf_biasensemble.data.store.making import Store
pixels, notes = array_store._open(Path({str(file)!r}), {shape}, "uint8")
assert array_store.digest_of(pixels) == "0" * 64
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
generator = torch.Generator().manual_seed(0)
for _ in range(100):
    rows = torch.randint({shape[0]}, (16,), generator=generator)
    assert pixels.index_select(0, rows).sum() == 0
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 200_000, f"{{grown}} KB"
print("read")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert ended.stdout == "read\n", ended.stderr


def test_full_disk_is_one_line_and_leaves_nothing_behind(split, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes that a file may have
    try:
        with pytest.raises(BiasEnsembleError, match="could not be written .* set HF_DATASETS_CACHE"):
            decode_split(split, SIZE, mapped=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not [file for file in cache.iterdir() if file.suffix not in (".lock", ".manifest")]
    assert decode_split(split, SIZE, mapped=True).fingerprint == decode_split(split, SIZE).fingerprint


# The command ---------------------------------------------------------------------------------------------------------


def test_cache_lists_and_clears_all_but_what_is_being_written(digits, split, cache, capsys):
    decode_split(split, SIZE, mapped=True, name="my digits")
    (cache / "half.unfinished").write_bytes(b"12345")
    load_splits(str(digits))  # leaves the tables that `datasets` made
    tables = [folder for folder in cache.parent.iterdir() if folder != cache]
    capsys.readouterr()
    assert run_command("cache", []) == 0
    listed = capsys.readouterr().out
    assert "my digits" in listed and "unfinished" in listed and str(digits) in listed
    kinds = [line.split()[0] for line in listed.splitlines()[:-2]]
    assert set(kinds) - {"manifest"} == {"pixels", "tables", "unfinished"} and f"{len(kinds)} entries" in listed
    assert len(stores(cache)) == 1 and tables and all(folder.exists() for folder in tables)
    with FileLock(cache / "half.lock"):
        assert run_command("cache", ["--clear"]) == 0
    assert "in use, left unfinished" in capsys.readouterr().out
    assert not stores(cache) and not any(folder.exists() for folder in tables) and (cache / "half.unfinished").exists()
    assert run_command("cache", ["--clear"]) == 0
    assert not (cache / "half.unfinished").exists()
    assert len(load_splits(str(digits))["train"].labels) == 96
