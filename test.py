"""Evaluate a saved classifier; see `python test.py --help`."""

import sys

from hf_biasensemble.cli.main import run_process

if __name__ == "__main__":
    sys.exit(run_process("test"))
