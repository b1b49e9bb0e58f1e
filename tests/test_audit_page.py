"""The audit page in a browser: filters, pages, marks and the download, as a person would use them.

Needs `pip install playwright` and Chromium, such as Debian's package `chromium`.
"""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from audits import HOSTILE, agreed, made, split_of

from hf_biasensemble.reporting.audit.audit import write_audit

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

NAMES = [HOSTILE, 'b "quoted", & more', *(f"class {number}" for number in range(2, 8))]
FLAGGED = 130
LABELS = np.arange(400) % 8
LABELS[:24:2] = 2  # so that 13 images are confused in the same way
CONTRADICTING = {label: np.flatnonzero(LABELS[:30] == label).tolist() for label in range(8)}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page with 130 flagged images of 400, of 8 classes; 30 of them contradict the members."""
    folder = tmp_path_factory.mktemp("page")
    labels = LABELS
    predictions = agreed(np.where(np.arange(400) < 30, (labels + 1) % 8, labels), 3)
    probability = np.r_[np.linspace(0.01, 0.8, FLAGGED), np.linspace(0.95, 1, 400 - FLAGGED)]
    selection = made(
        probability,
        labels=labels,
        bias_labels=labels[::-1],
        votes=np.where(probability > 0.9, 3, np.arange(400) % 2),
        **predictions,
    )
    selection.save(folder / "selection")
    split = replace(
        split_of(selection, NAMES, image_size=16), bias_names=[f"attribute {number}" for number in range(8)]
    )
    return write_audit(folder, split, "some/data")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, file):
    """The page, opened from its file; whatever it asks for or complains of fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("data:", "blob:", file.as_uri())) else complaints.append(request.url)
        ),
    )
    page.goto(file.as_uri())
    yield page
    page.close()
    assert complaints == []


def status(page) -> str:
    return page.inner_text("#status")


def shown_rows(page) -> list[int]:
    """Row numbers of the cards, from the names of their groups of marks."""
    labels = page.locator("#cards .kinds").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    return [int(label.removeprefix("Mark row ")) for label in labels]


def mark_button(page, row: int, kind: str):
    return page.locator(f"#cards [aria-label='Mark row {row}'] [data-kind={kind}]")


def exported(page, file) -> list[dict]:
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "audit_marks.csv"
    download.value.save_as(file)
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_pages_of_the_flagged_images(opened):
    assert status(opened) == "Images 1 to 30 of 30"  # those that contradict the members stand apart
    assert shown_rows(opened) == list(range(30))
    opened.select_option("#view", label="images they hesitate about")
    assert status(opened) == "Images 1 to 48 of 100"
    assert shown_rows(opened) == list(range(30, 78))
    assert opened.is_disabled("#previous")
    opened.click("#next")
    opened.focus("#next")
    opened.keyboard.press("Enter")
    assert status(opened) == "Images 97 to 100 of 100"
    assert shown_rows(opened) == list(range(126, 130))
    assert opened.is_disabled("#next")
    opened.click("#previous")
    assert status(opened) == "Images 49 to 96 of 100"
    loaded = opened.locator("#cards img").evaluate_all("all => all.map((one) => one.complete && one.naturalWidth)")
    assert loaded == [16] * 48


def test_filters_by_class_and_prediction(opened):
    opened.select_option("#label", label=NAMES[5])
    assert shown_rows(opened) == CONTRADICTING[5] == [5, 13, 21, 29]
    opened.select_option("#predicted", label=NAMES[2])
    assert status(opened) == "No images match"
    opened.select_option("#predicted", label=NAMES[6])
    assert shown_rows(opened) == CONTRADICTING[5]
    opened.select_option("#label", label="any")
    opened.select_option("#predicted", label="any")
    opened.select_option("#view", label="possible label errors")
    assert shown_rows(opened) == list(range(30))


def test_names_are_text(opened):
    opened.select_option("#label", label=HOSTILE)
    first = opened.locator("#cards .card").first
    assert first.locator("strong").inner_text() == f"labelled {HOSTILE}"
    assert f"predicted {NAMES[1]} by 3 of 3" in first.inner_text()
    assert first.locator("img").get_attribute("alt") == f"Row 24, labelled {HOSTILE}"
    assert opened.locator("main script").count() == 0


def test_a_confusion_opens_its_images(opened):
    pairs = opened.locator(".pairs button")
    assert pairs.all_inner_texts()[0].startswith("class 2 predicted as class 3: 13 images") and pairs.count() == 1
    pairs.first.click()
    assert shown_rows(opened) == CONTRADICTING[2] and len(CONTRADICTING[2]) == 13
    assert pairs.first.get_attribute("aria-pressed") == "true"
    pairs.first.click()
    assert status(opened) == "Images 1 to 30 of 30"


def test_marks_by_key_and_by_click(opened, tmp_path):
    assert opened.is_disabled("#download")
    opened.locator("#cards .open").first.focus()
    opened.keyboard.press("1")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("2")
    mark_button(opened, 9, "hard").click()
    assert mark_button(opened, 0, "label_error").get_attribute("aria-pressed") == "true"
    assert opened.inner_text("#download") == "Export 3 marks as CSV"
    opened.select_option("[aria-label='Correct class of row 0']", label=f"is {NAMES[4]}")
    opened.keyboard.press("Escape")
    opened.locator("#cards .open").nth(20).focus()
    opened.keyboard.press("4")
    opened.keyboard.press("4")  # again: the mark is gone
    assert opened.inner_text("#download") == "Export 3 marks as CSV"
    opened.select_option("#view", label="marked by me")
    assert shown_rows(opened) == [0, 1, 9]
    rows = exported(opened, tmp_path / "marks.csv")
    assert [(row["index"], row["label"], row["kind"], row["new_label"]) for row in rows] == [
        ("0", NAMES[2], "label_error", NAMES[4]),
        ("1", NAMES[1], "bias_conflicting", ""),
        ("9", NAMES[1], "hard", ""),
    ]
    assert rows[0]["bias_label"] == f"attribute {LABELS[-1]}" and not {"image", "is_conflicting"} & rows[0].keys()
    assert float(rows[0]["mean_probability"]) == pytest.approx(0.01)


def test_marks_outlive_the_page_and_come_back_from_their_file(opened, tmp_path):
    opened.locator("#cards .open").first.focus()
    opened.keyboard.press("1")
    opened.reload()
    assert mark_button(opened, 0, "label_error").get_attribute("aria-pressed") == "true"
    before = exported(opened, tmp_path / "marks.csv")
    opened.locator("#cards .open").first.focus()
    opened.keyboard.press("1")
    assert opened.is_disabled("#download")
    opened.set_input_files("#import", tmp_path / "marks.csv")
    opened.locator("#marks-status", has_text="Imported 1 marks.").wait_for()
    assert exported(opened, tmp_path / "again.csv") == before
    mark_button(opened, 0, "label_error").click()
    assert opened.is_disabled("#download")
    (tmp_path / "other.csv").write_text("index,label,kind,new_label,image_hash\n0,x,hard,,sha256:0\n")
    opened.set_input_files("#import", tmp_path / "other.csv")
    opened.locator("#marks-status", has_text="of other images").wait_for()
    assert opened.is_disabled("#download")


def test_an_image_opens_large_and_can_be_marked_there(opened):
    opened.locator("#cards .open").first.focus()
    opened.keyboard.press("Enter")
    assert opened.locator("#large img").bounding_box()["height"] > 400
    opened.click("#large-next")
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("3")
    assert opened.locator("#large img").get_attribute("alt").startswith("Row 1, ")
    opened.locator("#dialog button", has_text="Close").click()
    assert not opened.is_visible("#dialog")
    assert mark_button(opened, 1, "hard").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser, file, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(file.as_uri())
    page.locator("#cards .open").first.focus()
    page.keyboard.press("1")
    page.locator(".pairs button").first.click()
    found = axe.Axe().run(page).response
    assert len(found["passes"]) > 10
    assert [violation["id"] for violation in found["violations"]] == []
    page.locator("#cards .open").first.click()
    assert [violation["id"] for violation in axe.Axe().run(page).response["violations"]] == []
    context.close()


def test_pages_of_the_classes(opened):
    titles = opened.locator("#galleries h3")
    assert titles.all_inner_texts() == NAMES[:5]
    opened.click("#next-classes")
    assert titles.all_inner_texts() == NAMES[5:]
    assert opened.inner_text("#classes-status") == "Classes 6 to 8 of 8"
    lists = opened.locator("#galleries ul")
    assert [lists.nth(number).locator("li").count() for number in range(6)] == [12] * 6


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_fits_the_screen_in_both_schemes(browser, file, scheme, width):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    text, ground = (sum(map(int, colour.strip("rgb()").split(","))) for colour in colours)
    assert (text > 600 and ground < 150) if scheme == "dark" else (text < 150 and ground > 600)
    context.close()


def test_keyboard_reaches_everything_in_order(opened):
    reached = []
    name = "(one) => one.id || one.className || one.getAttribute('aria-label')"
    for _ in range(200):
        opened.keyboard.press("Tab")
        focused = opened.locator(":focus")
        reached.append(focused.evaluate(name))
        assert focused.evaluate("(one) => getComputedStyle(one).outlineStyle") != "none"
    assert reached[0] == "skip"
    # All images of this view are on one page, so its buttons are disabled.
    names = ("next-classes", "view", "label", "predicted", "next", "previous")
    assert [name for name in reached if name in names] == ["next-classes", "view", "label", "predicted"]
    assert "open" in reached and "pair" in reached
