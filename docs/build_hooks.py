"""What the build of the documentation adds to mkdocs: formulas that need no script, and pages that load nothing.

mkdocs calls these functions by their names.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.+?)\\[)\]]\s*</\1>', re.DOTALL)
DOCSTRING_LINK = re.compile(r"\[<code>[~.]?([\w.]+)</code>\]")
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?https?:[^>]*>|<link[^>]*stylesheet[^>]*https?:[^>]*>")


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers show by themselves; names in docstrings without their brackets."""

    def as_mathml(match: re.Match) -> str:
        return convert(html.unescape(match[2]).strip(), display="block" if match[1] == "div" else "inline")

    return DOCSTRING_LINK.sub(r"<code>\1</code>", FORMULA.sub(as_mathml, content))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuses a page that would load something from another site, or that has a formula left."""
    found = LOADED.search(output) or re.search('class="arithmatex".*', output)
    if found:
        raise PluginError(f"{page.file.src_uri}: expected a page that needs nothing from elsewhere, found {found[0]}")
    return output
