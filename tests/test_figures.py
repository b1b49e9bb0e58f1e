"""The pictures are drawn from the right numbers, and wrong input is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.reporting.figures.curves import accuracy_curves, digit_panel

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


def test_digit_panel_shows_only_mended_mistakes(tmp_path):
    images = np.zeros((4, 3, 8, 8), dtype=np.uint8)
    images[0, 0], images[1, 1], images[2, 2] = 255, 255, 255  # red, green, blue
    labels = np.array([0, 1, 1, 0])
    predictions = {"A": np.array([1, 1, 0, 1]), "B": np.array([0, 1, 0, 0])}  # mended: 0 (red) and 3 (black)
    file = digit_panel(images, labels, predictions, ["no", "yes"], tmp_path / "panel.png")
    assert colour_pixels(file, (255, 0, 0)) > 500
    assert colour_pixels(file, (0, 255, 0)) == colour_pixels(file, (0, 0, 255)) == 0


def test_digit_panel_without_such_images_is_refused(tmp_path):
    right = np.array([0, 1])
    with pytest.raises(BiasEnsembleError, match="found none"):
        digit_panel(
            np.zeros((2, 3, 8, 8), np.uint8), right, {"A": right, "B": right}, ["no", "yes"], tmp_path / "p.png"
        )
    with pytest.raises(BiasEnsembleError, match="two models"):
        digit_panel(np.zeros((2, 3, 8, 8), np.uint8), right, {"A": right}, ["no", "yes"], tmp_path / "p.png")
