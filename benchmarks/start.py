"""Waiting time of a user: imports, `--help` and the first training step, each in a new process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import ROOT, Figure, Options, environment, seconds

LIBRARIES = "import torch, transformers; transformers.Trainer"
UNTIL_FIRST_STEP = """
import os, sys
from hf_biasensemble.cli.main import run_command
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
run_command("train", sys.argv[1:])
"""


def figures(options: Options) -> Iterator[Figure]:
    """One figure in seconds."""
    with options.coloured_mnist() as data, TemporaryDirectory() as folder:

        def until_first_step(method: str) -> list[str]:
            settings = ["--config", str(ROOT / "configs" / method / "cmnist.yaml"), "--use_cpu", "true"]
            output = ["--output_dir", str(Path(folder) / method), "--overwrite_output_dir", "true"]
            return ["-c", UNTIL_FIRST_STEP, *data, *settings, *output, "--disable_tqdm", "true"]

        commands = {
            "import torch, transformers.Trainer": ["-c", LIBRARIES],
            "import hf_biasensemble": ["-c", "import hf_biasensemble"],
            "train.py --help": [str(ROOT / "train.py"), "--help"],
            "train.py until the first step of ERM": until_first_step("erm"),
            "train.py until the first step of the members": until_first_step("lff_be"),
        }
        contenders: dict[str, Callable] = {
            name: lambda words=words: seconds(lambda: _run(words)) for name, words in commands.items()
        }
        yield Figure("start", "s", contenders, "import torch, transformers.Trainer")


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, env=environment(), stdout=subprocess.DEVNULL)
