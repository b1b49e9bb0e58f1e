"""The common look of all figures. matplotlib is imported only when one is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hf_biasensemble.internal.files import written_whole
from hf_biasensemble.internal.fonts import DEFAULT, drawable, font_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colour-blind-safe palette of Okabe and Ito, without its yellow, which is too pale for lines on white.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^v"
GREY = "#555555"
PALE = "#DDDDDD"

ALIGNED, CONFLICTING = "Bias-aligned", "Bias-conflicting"
GROUP_LOOKS = {
    "All": (COLORS[6], MARKERS[4]),
    ALIGNED: (COLORS[1], MARKERS[1]),
    CONFLICTING: (COLORS[0], MARKERS[0]),
    "Unbiased": (COLORS[2], MARKERS[2]),
}
"""Colour and marker of each group in all figures."""
MODEL_COLORS = ("#7F7F7F", COLORS[3])
"""Colours of the baseline and the model compared with it, unlike those of the groups."""


def new_figure(width: float, height: float, row_gap: float = 0.04, column_gap: float = 0.04) -> "Figure":
    """A figure, sized in inches, that does not touch the state of pyplot or open a window."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=150, layout=ConstrainedLayoutEngine(h_pad=row_gap, w_pad=column_gap))


def tidy(panel: "Axes", title: str = "", xlabel: str = "", ylabel: str = "", grid: Literal["x", "y"] = "y") -> None:
    """Sets a left-aligned title, muted labels and grid lines, and removes the frame."""
    panel.set_title(title, fontsize=12, loc="left")
    panel.set_xlabel(xlabel, color=GREY)
    panel.set_ylabel(ylabel, color=GREY)
    panel.grid(axis=grid, color=PALE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelcolor=GREY)
    panel.spines[["top", "right", "left"]].set_visible(False)


def plain(name: str, longest: int = 24) -> str:
    """Puts a name on one line that fonts can draw, cut to `longest` characters, with dollar signs escaped."""
    name = drawable(" ".join(name.split()))
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return name.replace("$", r"\$")


def save(figure: "Figure", file: str | Path) -> Path:
    """Writes the figure in the format given by the suffix (.png, .svg, .pdf)."""
    from matplotlib.text import Text

    file = Path(file)
    for text in figure.findobj(Text):
        font = font_for(text.get_text())
        if font and font[0] != DEFAULT:
            text.set_fontfamily(font[0])
    with written_whole(file) as unfinished:
        figure.savefig(unfinished, format=file.suffix[1:])
    return file
