"""Decoding and encoding of images by several processes that share the work: `python -m benchmarks.encoding FOLDER`.

Each number of processes starts with an empty cache. Prints seconds, images per second and process, and whether the
stores equal those of one process byte for byte; if not, the exit status is 1.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measuring import ROOT, environment
from hf_biasensemble import DataArguments, ModelArguments, load_image_splits
from hf_biasensemble.data.prepare import image_geometry, image_transform
from hf_biasensemble.internal.processes import number_started
from hf_biasensemble.models.frozen import FrozenBackbone
from hf_biasensemble.models.preprocessing import with_preprocessing


def encode(folder: str, backbone: str, weights: str | None, image_size: int) -> None:
    """The work of one process; prints its start and end times."""
    torch.set_num_threads(1)
    model_args = ModelArguments(
        backbone=backbone,
        pretrained=weights is None,
        pretrained_weights=weights,
        freeze_backbone=True,
        image_size=image_size,
    )
    model_args = with_preprocessing(model_args)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    data_args = DataArguments(dataset_name=folder)
    network = FrozenBackbone.of(model_args, image_transform(model_args))
    began = time.time()
    splits = load_image_splits(data_args, image_geometry(model_args))
    decoded = time.time()
    network.encode(splits, data_args, device)
    count = sum(len(split) for split in splits.values())
    print(f"times {began} {decoded} {time.time()} {count}", flush=True)


def measured(processes: int, words: list[str], cache: Path) -> tuple[float, float, int]:
    """Seconds for decoding, seconds for encoding, and the number of images."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command = [sys.executable, *launcher, "benchmarks.encoding", *words]
    variables = environment() | {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    # Lines of several processes may run together.
    rows = re.findall(r"times ([\d.]+) ([\d.]+) ([\d.]+) (\d+)", done.stdout)
    began, decoded, ended = ([float(row[place]) for row in rows] for place in range(3))
    return max(decoded) - min(began), max(ended) - max(decoded), int(rows[0][3])


def stores(cache: Path) -> dict[str, bytes]:
    """Content of the stores by file name."""
    return {file.name: file.read_bytes() for file in cache.glob("hf_biasensemble/*/*.npy")}


def main() -> int:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoding", description=__doc__)
    parser.add_argument("folder", help="image dataset")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--pretrained_weights", help="weights file (default: timm's weights)")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    if "LOCAL_RANK" in os.environ and number_started():
        encode(given.folder, given.backbone, given.pretrained_weights, given.image_size)
        return 0
    same = True
    print("| processes | decoding, s | encoding, s | images | encoded per second and process | stores |")
    print("|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        expected: dict[str, bytes] = {}
        for processes in given.processes:
            cache = Path(folder) / str(processes)
            decoding, encoding, count = measured(processes, sys.argv[1:], cache)
            expected = expected or stores(cache)
            equal = stores(cache) == expected
            same = same and equal
            rate = count / encoding / processes
            said = "equal" if equal else "DIFFERENT"
            print(f"| {processes} | {decoding:.1f} | {encoding:.1f} | {count} | {rate:.1f} | {said} |", flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
