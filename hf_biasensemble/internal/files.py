"""Files that are there whole or not at all."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED_SUFFIX = ".unfinished"
"""Of a file that is being written."""
FORMULA_START = r"^([=+\-@\t\r\n])"
"""How text begins that a spreadsheet takes for a formula; a single quote before it makes it text."""


@contextmanager
def written_whole(file: str | Path) -> Iterator[Path]:
    """Yields a path beside `file`, whose folder is made if missing, that takes its place when the block ends well."""
    final = Path(file)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_suffix(UNFINISHED_SUFFIX)
    yield unfinished
    os.replace(unfinished, final)


def without_formula(text: str) -> str:
    """The text for a cell of a CSV file, with a single quote before what a spreadsheet would take for a formula."""
    return re.sub(FORMULA_START, r"'\1", text)
