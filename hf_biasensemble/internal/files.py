"""Files that are written completely or not at all."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED_SUFFIX = ".unfinished"
"""Of a file that is being written."""
FORMULA_START = r"^([=+\-@\t\r\n])"
"""The first character of text that a spreadsheet takes for a formula."""


@contextmanager
def written_whole(file: str | Path) -> Iterator[Path]:
    """Yields a new path beside `file`, whose folder is created if missing. It replaces `file` when the block succeeds
    and is removed when the block raises."""
    final = Path(file)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{UNFINISHED_SUFFIX}")
    try:
        yield unfinished
        os.replace(unfinished, final)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left of [`written_whole`] in a folder that nobody else is writing to."""
    for file in folder.glob(f".*.{'[0-9a-f]' * 8}{UNFINISHED_SUFFIX}"):
        file.unlink(missing_ok=True)


def without_formula(text: str) -> str:
    """The text for a CSV cell; one that a spreadsheet would take for a formula gets a single quote in front."""
    return re.sub(FORMULA_START, r"'\1", text)
