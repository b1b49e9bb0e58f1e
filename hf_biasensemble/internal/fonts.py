"""Installed fonts that can draw names of the data, whatever their script."""

from functools import cache

DEFAULT = "DejaVu Sans"  # comes with matplotlib


@cache
def font_for(text: str) -> tuple[str, str] | None:
    """Name and file of an installed font that has all characters of the text, or `None`."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    # The default first, then regular fonts of other families, then whatever there is.
    for entry in sorted(
        fontManager.ttflist,
        key=lambda font: (font.name != DEFAULT, font.style != "normal", str(font.weight) not in ("400", "normal")),
    ):
        if not entry.name.startswith("Last Resort"):  # which has a box for everything
            try:
                known = _characters(FT2Font, entry.fname)
            except (OSError, RuntimeError):
                continue  # uninstalled since, or of a kind that cannot be read
            if all(ord(character) in known for character in text if not character.isspace()):
                return entry.name, entry.fname
    return None


@cache
def _characters(reader: type, file: str) -> frozenset[int]:
    return frozenset(reader(file).get_charmap())


def drawable(text: str) -> str:
    """The text, with characters beyond ASCII escaped if no installed font has them all."""
    return text if font_for(text) else text.encode("ascii", "backslashreplace").decode()
