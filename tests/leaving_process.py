"""The train command as `train.py` starts it; prints whether a process group is left when Python ends."""

import atexit
import runpy
from pathlib import Path

import torch.distributed

if __name__ == "__main__":
    atexit.register(lambda: print("process group left:", torch.distributed.is_initialized(), flush=True))
    runpy.run_path(str(Path(__file__).parents[1] / "train.py"), run_name="__main__")
