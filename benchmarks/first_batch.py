"""Time and memory from the start of a process to its first batch, with the options of `train.py`:
`python -m benchmarks.first_batch --dataset_name ...`, or under `torchrun`.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

STARTED = psutil.Process().create_time()


def main(argv: list[str] | None = None) -> int:
    """Runs `train` until the first batch of the training split, which must have pixels."""
    from hf_biasensemble.cli.main import run_command
    from hf_biasensemble.data.pixels import ImageSplit

    plain = ImageSplit.__getitems__

    def first(split: ImageSplit, positions: Any) -> Any:
        plain(split, positions)
        taken, times = time.time() - STARTED, psutil.Process().cpu_times()
        status = Path("/proc/self/status").read_text().splitlines()
        memory = {line.split(":")[0]: int(line.split()[1]) // 1000 for line in status if line.endswith("kB")}
        print(
            f"process {os.environ.get('RANK', 0)}: {taken:.1f} s, of the processor {times.user + times.system:.1f} s; "
            f"{memory['VmHWM']} MB at most, {memory['RssAnon']} MB private",
            flush=True,
        )
        time.sleep(5 if "RANK" in os.environ else 0)  # torchrun ends all processes with the first
        os._exit(0)

    ImageSplit.__getitems__ = first  # type: ignore[method-assign]
    return run_command("train", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
