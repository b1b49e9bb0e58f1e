"""Installed fonts that can draw class names in any script."""

from functools import cache

DEFAULT = "DejaVu Sans"  # comes with matplotlib


@cache
def font_for(text: str) -> tuple[str, str] | None:
    """Name and file of an installed font with all characters of the text, or `None`."""
    from matplotlib.font_manager import fontManager

    # The default first, then regular fonts of other families, then the rest.
    for entry in sorted(
        fontManager.ttflist,
        key=lambda font: (font.name != DEFAULT, font.style != "normal", str(font.weight) not in ("400", "normal")),
    ):
        if not entry.name.startswith("Last Resort"):  # draws every character as a box
            try:
                known = _characters(entry.fname)
            except (OSError, RuntimeError):
                continue  # removed or unreadable
            if all(ord(character) in known for character in text if not character.isspace()):
                return entry.name, entry.fname
    return None


@cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())


def drawable(text: str) -> str:
    """The text, with characters beyond ASCII escaped if no installed font has them all."""
    return text if font_for(text) else text.encode("ascii", "backslashreplace").decode()
