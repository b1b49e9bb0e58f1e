"""Files that are written completely or not at all."""

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def write_text(file: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, completely or not at all."""
    with written_whole(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(file: str | Path, content: Any, indent: int | None = 2) -> None:
    """Writes a JSON file, completely or not at all."""
    write_text(file, json.dumps(content, indent=indent) + "\n")


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files that killed processes left in a folder that no other process is writing to."""
    for file in folder.glob(f".*.{'[0-9a-f]' * 8}{UNFINISHED_SUFFIX}"):
        file.unlink(missing_ok=True)


def without_formula(text: str) -> str:
    """The text for a CSV cell, with a single quote in front of a formula."""
    return re.sub(FORMULA_START, r"'\1", text)
