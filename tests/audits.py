"""Audits of tiny data, made by the real command or written from a selection made up, and their pages taken apart."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from runs import common_settings

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.reporting.audit.audit import write_audit
from hf_biasensemble.selection import Selection

HOSTILE = "<script>alert(1)</script>"


def audit(data: Path, output_dir: Path, **changes) -> int:
    settings = {"dataset_name": data, "output_dir": output_dir, **common_settings("lff_be"), **changes}
    return run_command("audit", [word for name, value in settings.items() for word in (f"--{name}", str(value))])


class Page(HTMLParser):
    """The page as a browser would take it apart: its tags, its tables by caption, its text, and the data block."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.size = file.stat().st_size
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join(" ".join(self.words).split())
        self.data = json.loads(self.scripts[0])
        self.rows = [dict(zip(self.data["columns"], row, strict=True)) for row in self.data["rows"]]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "br", "img", "input"):
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, text):
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts[-1] += text
        elif inside != "style":
            self.words.append(text)
            if "caption" in self._open:
                self._caption += text
            elif "td" in self._open or "th" in self._open:
                self._rows[-1][-1] += text

    def table(self, start: str) -> list[list[str]]:
        """The rows below the header of the one table whose caption begins so, without empty cells."""
        (rows,) = [rows for caption, rows in self.tables.items() if caption.strip().startswith(start)]
        return [[cell.strip() for cell in row if cell.strip()] for row in rows[1:]]


def listed(folder: Path) -> list[dict]:
    return pq.read_table(folder / "audit.parquet").to_pylist()


def made(probability, selected=None, labels=None, **changes) -> Selection:
    """A selection of samples in two classes."""
    probability = np.asarray(probability, dtype=np.float32)
    selected = probability > 0.9 if selected is None else np.asarray(selected)
    content = {
        "index": np.arange(len(probability)),
        "labels": np.arange(len(probability)) % 2 if labels is None else np.asarray(labels),
        "votes": 3 * selected.astype(int),
        "mean_probability": probability,
        "is_selected": selected,
        "provenance": {"num_members": 3},
    }
    return Selection(**(content | agreed(content["labels"], 3) | changes))


def split_of(selection: Selection, class_names: list[str], image_size: int = 8) -> ImageSplit:
    pixels = torch.randint(0, 256, (len(selection.index), 3, image_size, image_size), dtype=torch.uint8)
    return ImageSplit(pixels, torch.from_numpy(selection.labels), class_names, torch.from_numpy(selection.index))


def page_of(folder: Path, selection: Selection, class_names: list[str], image_size: int = 8, **options) -> Page:
    selection.save(folder / "selection")
    return Page(write_audit(folder, split_of(selection, class_names, image_size), "some/data", **options))


def agreed(predicted, agreeing) -> dict:
    predicted = np.asarray(predicted)
    return {
        "predicted_labels": predicted,
        "agreeing_members": np.broadcast_to(agreeing, predicted.shape).copy(),
        "lowest_probability": np.full(len(predicted), 0.9, dtype=np.float32),
    }


def check_image(row: dict, expected: Image.Image) -> None:
    with Image.open(io.BytesIO(base64.b64decode(row["image"]))) as shown:
        difference = np.abs(np.asarray(shown, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 12
