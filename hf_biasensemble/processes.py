"""Which of several processes this is, before any of them was set up."""

import os


def print_once(line: str) -> None:
    """Prints a line from the first process of a launch only."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
