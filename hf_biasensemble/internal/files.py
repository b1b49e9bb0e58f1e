"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED_SUFFIX = ".unfinished"
"""Of a file that is being written."""


@contextmanager
def written_whole(file: str | Path) -> Iterator[Path]:
    """Yields a path beside `file`, whose folder is made if missing, that takes its place when the block ends well."""
    final = Path(file)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_suffix(UNFINISHED_SUFFIX)
    yield unfinished
    os.replace(unfinished, final)
