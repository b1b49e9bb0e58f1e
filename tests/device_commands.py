"""Runs a command on a device without hardware, and prints as JSON what it does there: `device_commands.py test ...`"""

import json
import sys

import fake_device

from hf_biasensemble.cli.main import run_command

if __name__ == "__main__":
    fake_device.set_up()
    with fake_device.Device() as device:
        status = run_command(sys.argv[1], sys.argv[2:])
    print(json.dumps({"status": status, "launches": device.traffic.launches, "uploads": device.traffic.uploads}))
