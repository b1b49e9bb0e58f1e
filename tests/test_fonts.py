"""Names of the data in any script: drawn with a font that has them, escaped where no font does; never boxes."""

import warnings

import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from PIL import Image

from hf_biasensemble.benchmark_datasets.repository import contact_sheet
from hf_biasensemble.internal import fonts
from hf_biasensemble.reporting.figures.groups import group_heat_map

CJK = "猫"


@pytest.fixture(autouse=True)
def fonts_of_matplotlib(monkeypatch):
    """Only those that come with matplotlib count, whatever is installed here."""
    own = [font for font in fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    fonts.font_for.cache_clear()
    yield
    fonts.font_for.cache_clear()


def only_in_one_font() -> tuple[str, str]:
    """A character that DejaVu Sans lacks, and the name of the font that has it."""
    from matplotlib.ft2font import FT2Font

    default = set(FT2Font(fonts.font_for("a")[1]).get_charmap())
    for font in fontManager.ttflist:
        if font.name.startswith("STIXGeneral") and font.style == "normal":
            extra = sorted(set(FT2Font(font.fname).get_charmap()) - default)
            character = next(chr(code) for code in extra if chr(code).isalpha())
            return character, fonts.font_for(character)[0]
    raise AssertionError("no such font")


def test_the_default_font_is_taken_where_it_will_do():
    assert fonts.font_for("Katze größer κόσμος")[0] == "DejaVu Sans"
    assert fonts.drawable("größer") == "größer"


def test_a_character_that_another_font_has_is_drawn_with_that_font(tmp_path):
    character, font = only_in_one_font()
    assert font != "DejaVu Sans" and fonts.drawable(character) == character
    draw(tmp_path, [character, "dog"])


def test_characters_that_no_font_has_are_escaped(tmp_path):
    assert fonts.font_for(CJK) is None and fonts.drawable(f"{CJK} a") == "\\u732b a"
    draw(tmp_path, [CJK, "dog"])


def draw(folder, names):
    """A figure of such classes, in which matplotlib misses no glyph."""
    classes = np.array([0, 1, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group_heat_map(classes, classes, classes, names, names, folder / "groups.png")
    return np.asarray(Image.open(folder / "groups.png"))


def test_contact_sheet_tells_names_apart_that_no_font_has(tmp_path):
    sheets = [np.asarray(contact_sheet({}, [name], "title")) for name in (CJK, "犬", "\\u732b")]
    assert not np.array_equal(sheets[0], sheets[1]) and np.array_equal(sheets[0], sheets[2])
