"""Cells and tables in Markdown; names that come from data are plain text: whatever they hold, it is shown, not acted
on."""

import html
import re
from collections.abc import Sequence


def as_text(name: str) -> str:
    """The name in a line or a cell of a table, where it is no markup, no link and no end of the cell."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(name.split()), quote=False))


def as_code(name: str) -> str:
    """The name in a code span."""
    return f"`{' '.join(name.split()).replace('`', chr(39))}`"


def in_percent(value: float, low: float, high: float, more: str = "") -> str:
    """A share in percent, with both ends of its interval and what else is to stand in the brackets."""
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f}{more})"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
