"""What comes from the data is no formula in a spreadsheet; the Parquet file keeps the true text."""

import csv
import json
import re
import shutil
import subprocess

import datasets
import pyarrow as pa
import pytest
from audits import audit, listed
from synthetic import FEATURES, coloured_glyphs, write_parquet

from hf_biasensemble.reporting.audit.audit import without_formulas

NAMES = ['=HYPERLINK("http://x")', "+1", "-2+3", "@SUM(A1)"]
FILE = "=cmd|' /C calc'!A0.png"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An audit of images whose file and class names are formulas."""
    folder = tmp_path_factory.mktemp("hostile")
    names = datasets.ClassLabel(names=NAMES)
    columns = coloured_glyphs(96, 0.1, seed=0)
    for image in columns["image"]:
        image["path"] = FILE
    features = datasets.Features(FEATURES | {"label": names, "bias_label": names})
    write_parquet(folder / "data" / "train.parquet", columns, features)
    assert audit(folder / "data", folder / "out") == 0
    return folder / "out"


def test_names_in_the_list_are_no_formulas(hostile):
    with open(hostile / "audit.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    true = listed(hostile)
    for column in ("file", "label", "predicted_label", "bias_label"):
        assert [row[column] for row in rows] == [f"'{row[column]}" for row in true]
    assert {row["label"] for row in true} == set(NAMES) and {row["file"] for row in true} == {FILE}
    assert not [cell for row in rows for cell in row.values() if cell[0] in "=+-@"]


def test_only_text_that_begins_so_is_changed():
    text = ["=1", "+1", "-1", "@a", "\ta", "\ra", "a=1", "a\n=1", "", None, "'a", "1-1"]
    kept = pa.table({"text": text, "number": [-1.5] * 12, "count": [-1] * 12, "is": [True] * 12})
    table = without_formulas(kept)
    assert table["text"].to_pylist() == [f"'{value}" for value in text[:6]] + text[6:]
    assert table.drop(["text"]).equals(kept.drop(["text"]))


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_lines_of_the_download_are_no_formulas_either(hostile):
    """The page's own functions, run as they stand there."""
    page = (hostile / "audit.html").read_text(encoding="utf-8")
    functions = re.findall(r"^const (?:harmless|quoted|csvLine) = .*$", page, re.MULTILINE)
    assert len(functions) == 3
    values = [*NAMES, FILE, "\ta", "\ra", "owl", "a=1", None, -0.25, -3, 0.5, True]
    code = "\n".join([*functions, f"process.stdout.write(csvLine({json.dumps(values)}));"])
    done = subprocess.run(["node", "-e", code], capture_output=True, check=True)
    (cells,) = csv.reader([done.stdout.decode()], strict=True)
    assert cells == [*(f"'{value}" for value in values[:7]), "owl", "a=1", "", "-0.25", "-3", "0.5", "true"]
    assert page.count("csvLine") == 2  # what was tested is what the download is made with
