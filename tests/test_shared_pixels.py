"""Several processes and one store of decoded images, or of features: made once, by all of them together."""

import errno
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from datasets import Features, Value
from fresh_python import environment
from loaded import load_splits
from PIL import Image
from runs import ROOT, launch, words
from synthetic import class_folders, encoded, write_parquet

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.pixels import decode_split
from hf_biasensemble.data.store import content, making
from hf_biasensemble.data.store.array_store import open_or_make
from hf_biasensemble.data.store.making import Store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cold cache of its own for each test; gives the folder of the pixel stores."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hf_biasensemble" / "pixels"


def stores(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.npy"))


def many_of_one(folder: Path, image_side: int, count: int) -> Path:
    """A dataset of one image, `count` times."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise).resize((image_side, image_side)), "JPEG")
    columns = {"image": [{"bytes": content, "path": None}] * count, "label": [0, 1] * (count // 2)}
    write_parquet(folder / "train.parquet", columns, Features({"image": datasets.Image(), "label": Value("int64")}))
    return folder


@pytest.fixture(scope="module")
def slow_folder(tmp_path_factory):
    """300 images that take half a second or more to decode: three pieces are written."""
    return many_of_one(tmp_path_factory.mktemp("slow"), 800, 300)


BUILD = """
import sys, time
from pathlib import Path
from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.loading import load_splits
from hf_biasensemble.data.pixels import decode_split
split = load_splits(DataArguments(sys.argv[1]))["train"]
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.005)
decoded = decode_split(split, 32, mapped=True)
print(decoded.fingerprint, decoded.pixels.file.stat().st_ino, flush=True)
"""


def start(script: str, cache: Path, *words: str | Path) -> subprocess.Popen:
    variables = environment(cache.parents[1], HF_DATASETS_CACHE=str(cache.parents[1]))
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_while_writing_then_built_by_the_next(slow_folder, cache, tmp_path):
    process = start(BUILD, cache, slow_folder, tmp_path)
    while not any(file.stat().st_size for file in cache.glob("*.unfinished")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not stores(cache) and list(cache.glob("*.unfinished"))
    split = load_splits(str(slow_folder))["train"]
    assert decode_split(split, 32, mapped=True).fingerprint == decode_split(split, 32).fingerprint
    assert len(stores(cache)) == 1 and not list(cache.glob("*.unfinished"))


@pytest.mark.slow
def test_two_processes_at_once_share_the_work_and_both_get_it(slow_folder, cache, tmp_path):
    processes = [start(BUILD, cache, slow_folder, tmp_path / "go") for _ in range(2)]
    for process in processes:
        assert "ready\n" in iter(process.stdout.readline, "")  # after how the dataset is read
    (tmp_path / "go").touch()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines = [out.splitlines() for out, _ in outputs]
    expected = decode_split(load_splits(str(slow_folder))["train"], 32).fingerprint
    assert lines[0][-1] == lines[1][-1] == f"{expected} {stores(cache)[0].stat().st_ino}"  # nobody built it again
    assert sorted(len(line) for line in lines) == [1, 2]  # one came second, and says so
    assert "sharing the work with another process" in max(lines, key=len)[0]
    assert len(stores(cache)) == 1 and not list(cache.glob("*.unfinished"))


@pytest.mark.slow
def test_two_trainings_at_once_on_a_cold_cache_both_end_well(digits, cache, tmp_path):
    script = "import sys; from hf_biasensemble.cli.main import run_command; sys.exit(run_command('train'))"
    words = "--method erm --max_steps 3 --pixel_memory_limit 0 --use_cpu true --disable_tqdm true --eval_steps 3"
    folders = [tmp_path / "first", tmp_path / "second"]
    processes = [
        start(script, cache, "--dataset_name", digits, "--output_dir", folder, *words.split()) for folder in folders
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(stores(cache)) == 3  # train, validation and test
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, pytest.param(15, marks=pytest.mark.slow)])
def test_processes_of_a_run_decode_each_image_once_and_wait_without_a_time_out(cache, tmp_path, monkeypatch, seconds):
    """Far below `--pixel_memory_limit`; the second process waits longer than the others may in a collective."""
    folder, count = class_folders(tmp_path / "photos", {"ant": 40, "owl": 200, "elk": 90}), 6
    time.sleep(content._TICK / 1e9)  # files that were just written are read by each process
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache.parents[1]))
    monkeypatch.setenv("SECONDS", str(seconds))
    settings = {"max_steps": 2, "per_device_train_batch_size": 1, "ddp_timeout": 12}
    settings |= {"test_share": 0, "validation_share": 0}
    given = words(folder, tmp_path / "out", "erm", **settings)
    done = launch(2, *given, script=ROOT / "tests" / "counting_process.py")
    assert done.returncode == 0, done.stderr[-3000:]
    counts = [json.loads(found) for found in re.findall(r"counts: ({[^}]*})", done.stdout)]  # lines of two processes
    assert len(counts) == 2
    for what in ("read", "decoded"):
        assert sorted(each[what] for each in counts) == [0, count], done.stdout
    assert len(stores(cache)) == 1


READ = """
import resource, sys, torch
from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.loading import load_splits
from hf_biasensemble.data.pixels import decode_split

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

images = load_splits(DataArguments(sys.argv[1]))["train"]
decode_split(images, 4, mapped=True)
before = megabytes()
split = decode_split(images, int(sys.argv[2]), mapped=True)
most = megabytes()
for rows in torch.randperm(len(split)).split(16):
    split.__getitems__(rows.tolist())
    most = max(most, megabytes())
split.fingerprint
print(split.pixels.shape.numel() / 1e6, max(most, megabytes()) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_building_reading_and_hashing_a_store_does_not_need_its_size_in_memory(cache, tmp_path):
    process = start(READ, cache, many_of_one(tmp_path / "data", 60, 900), 384)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    size, grown = map(float, output.splitlines()[-1].split())  # before it, how the dataset is read
    assert size > 390
    assert grown < 200  # a piece being decoded, and the pages mapped before they are given back


ENCODE = """
import sys, time, torch
from torch import nn
from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.models.early_layers import EarlyAndFinal
from hf_biasensemble.models.frozen import FrozenBackbone

class Slow(nn.Linear):
    blocks = 0
    num_features = 2

    def forward(self, images):
        print("block", flush=True)
        time.sleep(float(sys.argv[1]) if self.blocks else 0)
        self.blocks += 1
        return super().forward(images.flatten(1))

torch.manual_seed(0)
pixels, encoder = torch.randint(256, (640, 3, 4, 4), dtype=torch.uint8), Slow(48, 2)
transform = ImageTransform((0.5,) * 3, (0.25,) * 3, image_size=4)
backbone = FrozenBackbone(ModelArguments(image_size=4), transform, EarlyAndFinal(encoder, 4))
values = backbone.features_of(pixels, False, 0, torch.device("cpu"), "ten blocks")
print(values[torch.arange(640)].double().sum().item())
"""


@pytest.mark.slow
def test_features_that_a_killed_process_left_are_gone_on_with_by_the_one_that_waits(cache, tmp_path):
    first = start(ENCODE, cache, 600)
    assert [first.stdout.readline() for _ in range(2)] == ["block\n"] * 2  # so one is in the store
    second = start(ENCODE, cache, 0)
    assert (
        second.stdout.readline() == "ten blocks: sharing the work with another process that makes the same features\n"
    )
    first.kill()
    first.communicate()
    output = second.stdout.read()  # `communicate` would lose what came together with the first line
    assert second.wait() == 0, second.stderr.read()
    *blocks, found = output.splitlines()
    assert blocks == ["block"] * 9
    assert not list(cache.parent.glob("features/*.unfinished"))
    alone = start(ENCODE, tmp_path / "other" / "hf_biasensemble" / "pixels", 0)
    assert alone.communicate()[0].splitlines() == ["block"] * 10 + [found]


@pytest.mark.slow
def test_processes_that_want_the_same_features_share_them_out_and_killed_ones_lose_only_what_they_were_at(
    cache, tmp_path
):
    alone = start(ENCODE, tmp_path / "other" / "hf_biasensemble" / "pixels", 0)
    expected = alone.communicate()[0].splitlines()[-1]
    killed = [start(ENCODE, cache, 600)]
    assert [killed[0].stdout.readline() for _ in range(2)] == ["block\n"] * 2
    killed.append(start(ENCODE, cache, 600))  # makes the last block, and is killed in the last but one
    assert [killed[1].stdout.readline() for _ in range(3)][1:] == ["block\n"] * 2
    (folder,) = cache.parent.glob("features/*.unfinished")
    assert {part.name for part in folder.glob("*.json")} == {"0.json", "576.json"}
    others = [start(ENCODE, cache, 0.2) for _ in range(2)]
    for process in others:
        assert process.stdout.readline().startswith("ten blocks: sharing")
    for process in killed:
        process.kill()
        process.communicate()
    outputs = [process.stdout.read().splitlines() for process in others]
    assert [lines[-1] for lines in outputs] == [expected] * 2
    made = [lines.count("block") for lines in outputs]
    assert sum(made) == 8 and min(made) >= 2  # two were there; the rest was made once
    assert not list(cache.parent.glob("features/*.unfinished"))
    stores = [next(folder.parent.glob("features/*.npy")) for folder in (cache, tmp_path / "other/hf_biasensemble/x")]
    assert stores[0].read_bytes() == stores[1].read_bytes()


def test_helper_begins_nothing_that_does_not_fit_and_leaves_errors_to_the_process_that_it_helps(cache, monkeypatch):
    def blocks(rows, notes):
        made.append(rows.start)
        yield np.zeros((len(rows), 3), np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    store, made = Store("pixels", "full", (200, 3), np.dtype(np.uint8), blocks), []
    cache.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(making.shutil, "disk_usage", lambda folder: SimpleNamespace(free=599))
        store.help()
    assert made == [] and not store.folder.exists()
    store.help()
    assert made == [192]
    with pytest.raises(making.NotWrittenError, match="No space left on device"):
        open_or_make(store)
    assert not store.folder.exists()


def test_the_cache_command_lists_of_a_store_that_is_being_made_what_is_on_the_disk(cache, capsys):
    """Its last part is written first, at its place in a file of the full length."""
    folder = cache / "begun.unfinished"
    folder.mkdir(parents=True)
    with open(folder / "array.npy", "wb") as stream:
        stream.truncate(10**10)
        stream.seek(10**10 - 10**6)
        stream.write(bytes(range(250)) * 4000)
    assert run_command("cache", []) == 0
    (line, *_) = capsys.readouterr().out.splitlines()
    kind, size, *_ = line.split()
    assert kind == "unfinished" and 0.9 < float(size) < 1.1


def test_store_has_the_rights_of_other_files(tmp_path):
    (tmp_path / "other").touch()
    store = Store("pixels", "rights", (3, 3), np.dtype(np.uint8), lambda rows, notes: iter([np.eye(3)]))
    array, _ = open_or_make(store)
    assert torch.equal(array[torch.arange(3)], torch.eye(3, dtype=torch.uint8))
    assert store.file.stat().st_mode == (tmp_path / "other").stat().st_mode
