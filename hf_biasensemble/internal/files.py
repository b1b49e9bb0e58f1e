"""Files that are written completely or not at all."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED_SUFFIX = ".unfinished"
FORMULA_START = r"^([=+\-@\t\r\n])"
"""Matches text that a spreadsheet would evaluate as a formula."""


@contextmanager
def written_whole(file: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `file`, which replaces `file` if the block succeeds and is removed if it raises.
    Creates the folder if missing."""
    final = Path(file)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{UNFINISHED_SUFFIX}")
    try:
        yield unfinished
        os.replace(unfinished, final)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files that killed processes left in a folder that no other process is writing to."""
    for file in folder.glob(f".*.{'[0-9a-f]' * 8}{UNFINISHED_SUFFIX}"):
        file.unlink(missing_ok=True)


def without_formula(text: str) -> str:
    """The text for a CSV cell, with a single quote in front of a formula."""
    return re.sub(FORMULA_START, r"'\1", text)
