"""The pictures are drawn from the right numbers, and wrong input is refused in one line."""

import html
import re
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.fonts import drawable
from hf_biasensemble.reporting.figures.canvas import GROUP_LOOKS
from hf_biasensemble.reporting.figures.curves import accuracy_curves, difficulty_curves, run_curves
from hf_biasensemble.reporting.figures.groups import group_heat_map
from hf_biasensemble.reporting.figures.selection import selection_histogram
from hf_biasensemble.selection import Selection

HEADER = "step,test_accuracy,test_aligned_accuracy,test_conflicting_accuracy,test_unbiased_accuracy"


def history(folder, name, rows, header=HEADER):
    file = folder / f"{name}.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def colour_pixels(file, colour):
    image = np.asarray(Image.open(file).convert("RGB")).astype(int)
    return int((np.abs(image - colour).sum(axis=2) < 30).sum())


ORANGE, BLUE = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)


def test_accuracy_curves_draw_a_line_for_each_run(tmp_path):
    low = history(tmp_path, "low", ["100,.2,.9,.1,.2", "200,.3,.9,.2,.3"])
    high = history(tmp_path, "high", ["100,.5,.8,.5,.5", "200,.7,.8,.7,.7"])
    file = accuracy_curves({"ERM": low, "LfF+BE": high}, tmp_path / "curves.png")
    width, height = Image.open(file).size
    assert width > 2 * height
    assert colour_pixels(file, ORANGE) > 500 and colour_pixels(file, BLUE) > 500
    alone = accuracy_curves({"ERM": low}, tmp_path / "alone.png")
    assert colour_pixels(alone, BLUE) == 0


def test_a_group_that_no_run_has_is_left_out(tmp_path):
    file = history(tmp_path, "one", ["100,.5,.5"], "step,test_accuracy,test_conflicting_accuracy")
    narrow = accuracy_curves({"run": file}, tmp_path / "narrow.png")
    whole = accuracy_curves({"run": history(tmp_path, "all", ["100,.5,.5,.5,.5"])}, tmp_path / "wide.png")
    assert Image.open(narrow).size[0] < Image.open(whole).size[0]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [("step,test_accuracy", ["100,.5"], "accuracy by group"), (HEADER, ["x,.5,.5,.5,.5"], "could not read")],
)
def test_a_history_without_usable_numbers_is_refused(tmp_path, header, rows, message):
    with pytest.raises(BiasEnsembleError, match=message):
        accuracy_curves({"run": history(tmp_path, "bad", rows, header)}, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(BiasEnsembleError, match="at least one run"):
        accuracy_curves({}, tmp_path / "curves.png")


# Curves of one run ---------------------------------------------------------------------------------------------------


def test_curves_of_a_run_have_a_line_for_each_group_and_none_without_evaluations(tmp_path):
    file = tmp_path / "history.csv"
    assert run_curves(file, tmp_path / "no.png") is None
    file.write_text("step,test_accuracy\n")
    assert run_curves(file, tmp_path / "no.png") is None
    file.write_text("step,test_accuracy,test_conflicting_accuracy\n100,.5,.2\n200,.6,.3\n")
    one = run_curves(file, tmp_path / "one.png")
    file.write_text("step,test_accuracy,validation_accuracy\n100,.5,.6\n")
    two = run_curves(file, tmp_path / "two.png")
    assert Image.open(two).size[0] > Image.open(one).size[0] and not (tmp_path / "no.png").exists()
    assert colour_pixels(one, ORANGE) > 500 and colour_pixels(one, BLUE) == 0
    assert colour_pixels(two, ORANGE) == colour_pixels(two, BLUE) == 0
    estimates = ",".join(f"validation_estimated_{group}_accuracy" for group in ("aligned", "conflicting"))
    file.write_text(f"step,test_accuracy,validation_accuracy,{estimates}\n100,.5,.6,.9,.4\n200,.5,.6,.9,.4\n")
    judged = run_curves(file, tmp_path / "judged.png")
    assert Image.open(judged).size[0] > Image.open(two).size[0]
    assert colour_pixels(judged, ORANGE) > 500 and colour_pixels(judged, BLUE) > 500


DIFFICULTY = "step,train_{0}relative_difficulty,train_{0}biased_loss,train_{0}debiased_loss"


def test_difficulty_curves_have_a_panel_for_each_measure_and_a_line_for_each_group(tmp_path):
    header = "{},{}".format(DIFFICULTY.format("aligned_"), DIFFICULTY.format("conflicting_").removeprefix("step,"))
    both = history(tmp_path, "both", ["100,.4,.1,.2,.8,.9,.2", "200,.3,.1,.1,.9,.9,.1"], header)
    text = text_of(difficulty_curves, both, tmp_path / "both.svg")
    assert {"Relative difficulty", "Biased model's loss", "Debiased model's loss"} <= set(text)
    assert {"Bias-aligned", "Bias-conflicting"} <= set(text) and "All" not in text
    file = difficulty_curves(both, tmp_path / "both.png")
    assert colour_pixels(file, ORANGE) > 500 and colour_pixels(file, BLUE) > 500
    alone = history(tmp_path, "alone", ["100,.4,.1,.2"], DIFFICULTY.format(""))
    text = text_of(difficulty_curves, alone, tmp_path / "alone.svg")
    assert "All" in text and "Bias-aligned" not in text


def test_difficulty_curves_of_a_run_that_has_no_such_thing(tmp_path):
    assert difficulty_curves(history(tmp_path, "erm", ["100,.2,.9,.1,.2"]), tmp_path / "no.png") is None
    assert difficulty_curves(tmp_path / "missing.csv", tmp_path / "no.png") is None
    assert not (tmp_path / "no.png").exists()


# Accuracy by group ---------------------------------------------------------------------------------------------------

LABELS = np.array([0, 0, 0, 0, 1, 1, 1])
ATTRIBUTE = np.array([0, 0, 0, 1, 1, 1, 1])
PREDICTIONS = np.array([0, 0, 1, 1, 1, 1, 1])  # 2 of 3, 0 of 1, 3 of 3, and none of class 1 with attribute 0


def texts(file: Path) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", file.read_text())]


def text_of(draw, *args, **kwargs) -> list[str]:
    """What is written in a picture that is drawn as .svg, with text as text."""
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        return texts(draw(*args, **kwargs))


def test_heat_map_has_the_number_of_each_group_and_a_dash_for_an_empty_one(tmp_path):
    names = (["cat", "dog"], ["red", "blue"])
    text = text_of(group_heat_map, PREDICTIONS, LABELS, ATTRIBUTE, *names, tmp_path / "map.svg")
    cells = [word for word in text if re.fullmatch(r"\d+|–", word)]
    scale, counts = ["0", "50", "100"], ["3", "1", "3"]
    assert Counter(cells) == Counter(["67", "0", "100", "–", *counts, *scale])
    assert {"cat", "dog", "red", "blue", "class", "bias attribute"} <= set(text)
    pixels = np.asarray(Image.open(group_heat_map(PREDICTIONS, LABELS, ATTRIBUTE, *names, tmp_path / "map.png")))
    dark, light, pale = ((0, 34, 78), (254, 232, 56), (0xDD, 0xDD, 0xDD))  # cividis at 0 and 1, and no group
    for colour in (dark, light, pale):
        assert (np.abs(pixels[..., :3].astype(int) - colour).sum(axis=2) < 6).sum() > 2000, colour


def test_heat_map_of_many_groups_and_of_too_many(tmp_path):
    names = [f"a class with a name that is long, number {n}" for n in range(41)]
    labels = np.arange(40)
    file = group_heat_map(labels, labels, labels, names[:40], names[:40], tmp_path / "40.png")
    width, height = Image.open(file).size
    assert 1500 < width < 4000 and 1500 < height < 4000
    assert group_heat_map(labels, labels, labels, names, names[:2], tmp_path / "41.png") is None
    assert group_heat_map(labels, labels, labels, names[:2], names, tmp_path / "41.png") is None
    assert not (tmp_path / "41.png").exists()


@pytest.mark.parametrize("name", ["$x$ and $\\frac$", "a\nb", "<b>&", "斑马", ""])
def test_names_of_the_data_are_drawn_as_they_are(tmp_path, name, recwarn):
    text = text_of(group_heat_map, PREDICTIONS, LABELS, ATTRIBUTE, [name, "dog"], ["red", "blue"], tmp_path / "m.svg")
    shown = drawable(" ".join(name.split()))  # as it is, where a font has it
    assert shown in [word.replace("\\$", "$") for word in text] or not name
    assert group_heat_map(PREDICTIONS, LABELS, ATTRIBUTE, [name, "dog"], ["red", "blue"], tmp_path / "m.png")
    assert not [str(warning.message) for warning in recwarn]


# The votes -----------------------------------------------------------------------------------------------------------


def selection(is_conflicting: np.ndarray | None) -> Selection:
    """Of 100 images with all votes, 9 with one, and 10 with none, of which the latter are bias-conflicting."""
    probabilities = np.repeat([[1.0], [0.52], [0.02]], [100, 9, 10], axis=0).T.repeat(3, axis=0)
    probabilities[0, 100:109] = 1.0
    index = np.arange(119)
    return Selection.from_votes(
        probabilities, index, index % 2, 0.99, 2, {"num_members": 3}, is_conflicting=is_conflicting
    )


def bars(file: Path, colour: str) -> list[float | None]:
    """Where the bars of one colour end, upwards, from left to right; `None` for those of height 0."""
    ends: list[float | None] = []
    for path, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', file.read_text()):
        if f"fill: {colour.lower()}" in style:
            heights = [-float(y) for y in re.findall(r"[-\d.]+ ([-\d.]+)", path)]
            ends.append(max(heights) if np.ptp(heights) else None)
    return ends[:-1]  # the last is in the legend


def test_histogram_counts_bias_aligned_and_bias_conflicting_images_apart(tmp_path):
    file = selection_histogram(selection(np.arange(119) >= 109), tmp_path / "votes.svg")
    aligned, conflicting = (bars(file, GROUP_LOOKS[name][0]) for name in ("Bias-aligned", "Bias-conflicting"))
    places = [[number for number, end in enumerate(ends) if end is not None] for ends in (aligned, conflicting)]
    assert places == [[13, 19, 20 + 1, 20 + 3], [0, 20 + 0]]  # twenty shares of probability, and 0 to 3 votes
    nine, hundred, ten = aligned[13], aligned[19], conflicting[0]
    assert [nine, hundred, ten] == pytest.approx([aligned[21], aligned[23], conflicting[20]])
    assert (hundred - ten) / (hundred - nine) == pytest.approx(1 / (2 - np.log10(9)), rel=1e-3)


def test_histogram_without_bias_labels_has_one_kind_of_bars_and_the_line_of_the_kept(tmp_path):
    text = text_of(selection_histogram, selection(None), tmp_path / "votes.svg")
    assert "All images" in text and "kept: right of the line" in text
    assert not [word for word in text if word.startswith("Bias")]
    file = selection_histogram(selection(None), tmp_path / "votes.png")
    assert colour_pixels(file, ORANGE) == colour_pixels(file, BLUE) == 0


@pytest.mark.parametrize(("metric", "color"), [("aligned_accuracy", "#0072b2"), ("conflicting_accuracy", "#d55e00")])
def test_a_sweep_has_the_colours_of_the_groups(tmp_path, metric, color):
    from hf_biasensemble.reporting.figures.sweep import sweep_figure

    drawn = sweep_figure({("data", "erm"): {metric: [0.5, 0.6]}}, {metric: "some"}, tmp_path / "sweep.svg")
    found = {one for one in ("#0072b2", "#d55e00") if one in drawn.read_text()}
    assert found == {color}
