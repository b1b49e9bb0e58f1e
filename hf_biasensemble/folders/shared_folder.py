"""Checks that the processes of a run on all machines share its output folder."""

import time
from pathlib import Path

import torch

from hf_biasensemble.folders.output_folder import CONFIG_FILE
from hf_biasensemble.internal.collectives import largest, num_processes, total
from hf_biasensemble.internal.errors import require

SECONDS_TO_APPEAR = 30
"""How long a network disk may take to show a new file on other machines."""


def check_seen_by_all(output_dir: Path, device: torch.device) -> None:
    """Refuses, in all processes, an output folder that one of them doesn't see: checkpoints would lack its part. All
    processes call this after the first one has written `config.yaml`."""
    if num_processes() == 1:
        return
    largest(torch.zeros((), device=device))  # the first process is here, so the file is written
    for _ in range(SECONDS_TO_APPEAR):
        if (output_dir / CONFIG_FILE).exists():
            break
        time.sleep(1)
    blind = int(total(torch.tensor(int(not (output_dir / CONFIG_FILE).exists()), device=device)))
    found = f"{blind} of {num_processes()} that do not; name one on a disk that all machines share, by its full path"
    require(not blind, f"--output_dir {output_dir}", "a folder that all processes see", found)
