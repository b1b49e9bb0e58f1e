"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(file: str | Path) -> Iterator[Path]:
    """Yields a path beside `file`, whose folder is made if missing, that takes its place when the block ends well."""
    final = Path(file)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_suffix(".unfinished")
    yield unfinished
    os.replace(unfinished, final)
