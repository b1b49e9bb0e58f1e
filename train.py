"""Train a debiased classifier; see `python train.py --help`."""

import sys

from hf_biasensemble.cli.main import run_process

if __name__ == "__main__":
    sys.exit(run_process("train"))
