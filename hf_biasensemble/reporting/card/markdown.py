"""Markdown from data: names are shown as plain text, whatever markup they contain."""

import html
import re
from collections.abc import Sequence


def as_text(name: str) -> str:
    """Escapes a name for a line of text or a table cell."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(name.split()), quote=False))


def as_code(name: str) -> str:
    """Formats a name as a code span."""
    return f"`{' '.join(name.split()).replace('`', chr(39))}`"


def in_percent(value: float, low: float, high: float, more: str = "") -> str:
    """Formats a fraction and its interval in percent; `more` goes inside the parentheses."""
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f}{more})"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Formats a table; the first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
