"""The train command; prints how many images this process has read to know them and how many it has decoded. The first
image takes it so many seconds as `SECONDS` says."""

import json
import os
import sys
import time

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data import decoding
from hf_biasensemble.data.store import content

counts = {"read": 0, "decoded": 0}
decode, hash_of_image = decoding.decode_image, content._hash_of_image


def counted_decode(*arguments):
    if counts["decoded"] == 0:
        time.sleep(float(os.environ.get("SECONDS", "0")))
    counts["decoded"] += 1
    return decode(*arguments)


def counted_hash(record):
    counts["read"] += 1
    return hash_of_image(record)


if __name__ == "__main__":
    decoding.decode_image, content._hash_of_image = counted_decode, counted_hash
    status = run_command("train")
    print(f"counts: {json.dumps(counts)}\n", end="")  # one write, since two processes share the pipe
    sys.exit(status)
