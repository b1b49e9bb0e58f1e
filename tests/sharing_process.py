"""Shares work out among the processes of a launch, and prints what each of them has in the end. The first of them
works for longer than a collective may take."""

import json
import time
from datetime import timedelta

import torch.distributed as dist

from hf_biasensemble.internal.collectives import leave, num_processes, shared_out
from hf_biasensemble.internal.errors import BiasEnsembleError

SECONDS = 2


def work(number: int) -> list[int]:
    """The number, who works and how many processes it finds."""
    if number == 0:
        time.sleep(3 * SECONDS)
    return [number, dist.get_rank(), num_processes(), len(shared_out(work, 0))]


def fail(number: int) -> int:
    """Fails for 4 sooner than for 2 and 3."""
    if number >= 2:
        time.sleep(number < 4)
        raise BiasEnsembleError(f"number {number}")
    return number


if __name__ == "__main__":
    dist.init_process_group("gloo")
    dist.distributed_c10d.default_pg_timeout = timedelta(seconds=SECONDS)  # of any further group
    found = {"many": shared_out(work, 5), "few": shared_out(work, 2), "none": shared_out(work, 0)}
    try:
        shared_out(fail, 5)
    except BiasEnsembleError as error:
        found["error"] = str(error)
    found["after"] = num_processes()
    print(f"found: {json.dumps(found)}\n", end="")  # one write, since the processes share the pipe
    leave()
