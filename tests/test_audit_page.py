"""The audit page in a browser: filters, pages, marks and the download, as a person would use them.

Needs `pip install playwright` and Chromium, such as Debian's package `chromium`.
"""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from audits import HOSTILE, agreed, made, split_of

from hf_biasensemble.reporting.audit import write_audit

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

NAMES = [HOSTILE, 'b "quoted", & more', *(f"class {number}" for number in range(2, 8))]
SUSPECTED = 130


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page with 130 suspected images of 400, of 8 classes, 20 of them possible label errors."""
    folder = tmp_path_factory.mktemp("page")
    labels = np.arange(400) % 8
    predictions = agreed(np.where(np.arange(400) < 20, (labels + 1) % 8, labels), 3)
    probability = np.r_[np.linspace(0.01, 0.8, SUSPECTED), np.linspace(0.95, 1, 400 - SUSPECTED)]
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
    """Row numbers of the cards, from the names of their buttons."""
    labels = page.locator("#cards button").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    return [int(label.removeprefix("Mark row ")) for label in labels]


def test_pages_of_the_suspected_images(opened):
    assert status(opened) == "Images 1 to 48 of 130"
    assert shown_rows(opened) == list(range(48))
    assert opened.is_disabled("#previous")
    opened.click("#next")
    opened.focus("#next")
    opened.keyboard.press("Enter")
    assert status(opened) == "Images 97 to 130 of 130"
    assert shown_rows(opened) == list(range(96, 130))
    assert opened.is_disabled("#next")
    opened.click("#previous")
    assert status(opened) == "Images 49 to 96 of 130"
    loaded = opened.locator("#cards img").evaluate_all("all => all.map((one) => one.complete && one.naturalWidth)")
    assert loaded == [16] * 48


def test_filters_by_class_and_votes(opened):
    opened.click("#next")
    opened.select_option("#label", label=NAMES[0])
    assert status(opened) == "Images 1 to 17 of 17"
    assert shown_rows(opened) == list(range(0, 130, 8))
    opened.select_option("#votes", label="1")
    assert status(opened) == "No images match"
    opened.select_option("#label", label=NAMES[1])
    assert shown_rows(opened) == list(range(1, 130, 8))
    opened.select_option("#label", label="any")
    opened.select_option("#votes", label="0")
    assert status(opened) == "Images 1 to 48 of 65"
    opened.select_option("#votes", label="any")
    opened.select_option("#view", label="possible label errors")
    assert shown_rows(opened) == list(range(20))


def test_names_are_text(opened):
    first = opened.locator("#cards .card").first
    assert first.locator("strong").inner_text() == f"labelled {HOSTILE}"
    assert f"members say {NAMES[1]} (3 of 3)" in first.inner_text()
    assert first.locator("img").get_attribute("alt") == f"Row 0, labelled {HOSTILE}"
    assert opened.locator("main script").count() == 0


def test_marks_and_their_download(opened, tmp_path):
    assert opened.is_disabled("#download")
    opened.click("button[aria-label='Mark row 9']")
    opened.select_option("#label", label=NAMES[0])
    opened.focus("button[aria-label='Mark row 0']")
    opened.keyboard.press("Space")
    assert (
        opened.locator("button[aria-label='Mark row 0'][aria-pressed=true]").count() == 2
    )  # also in the class's part
    opened.click("#cards button[aria-label='Mark row 16']")
    opened.click("#cards button[aria-label='Mark row 16']")
    assert opened.inner_text("#download") == "Download 2 marked rows as CSV"
    opened.select_option("#label", label="any")
    opened.select_option("#view", label="marked by me")
    assert sorted(shown_rows(opened)) == [0, 9]
    with opened.expect_download() as download:
        opened.click("#download")
    download.value.save_as(tmp_path / download.value.suggested_filename)
    with open(tmp_path / "audit_marked.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    rows = sorted(rows, key=lambda row: int(row["index"]))
    assert [(row["index"], row["label"], row["predicted_label"], row["votes"]) for row in rows] == [
        ("0", NAMES[0], NAMES[1], "0"),
        ("9", NAMES[1], NAMES[2], "1"),
    ]
    assert rows[0]["bias_label"] == "attribute 7" and not {"image", "is_conflicting"} & rows[0].keys()
    assert float(rows[0]["mean_probability"]) == pytest.approx(0.01)


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
    for _ in range(12):
        opened.keyboard.press("Tab")
        focused = opened.locator(":focus")
        reached.append(focused.evaluate(name))
        assert focused.evaluate("(one) => getComputedStyle(one).outlineStyle") != "none"
    assert reached[0] == "skip"
    assert [name for name in reached if name in ("view", "label", "votes", "next", "previous")] == [
        "view",
        "label",
        "votes",
        "next",
    ]
    assert "Mark row 0" in reached
