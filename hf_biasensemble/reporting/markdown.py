"""Names that come from data, as plain text in Markdown: whatever they hold, it is shown and not acted on."""

import html
import re


def as_text(name: str) -> str:
    """The name in a line or a cell of a table, where it is no markup, no link and no end of the cell."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(name.split()), quote=False))


def as_code(name: str) -> str:
    """The name in a code span."""
    return f"`{' '.join(name.split()).replace('`', chr(39))}`"
