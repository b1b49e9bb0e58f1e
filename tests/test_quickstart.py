"""The quickstart runs from beginning to end and leaves what it promises."""

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_quickstart_prints_what_it_measured_and_keeps_other_files(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlxtend")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "mine.txt").write_text("keep")
    file = Path(__file__).parent.parent / "examples" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", file)
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)

    assert quickstart.main(["--max_steps", "60", "--member_steps", "240"]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = tmp_path / "quickstart"
    for name, run in quickstart.RUNS.items():
        results = json.loads((folder / run / "all_results.json").read_text())
        row = next(line for line in lines if line.startswith(f"{name} test"))
        groups = ("aligned", "conflicting", "unbiased")
        assert row.split()[-3:] == [f"{100 * results[f'test_{group}_accuracy']:.1f}" for group in groups]
    for picture in (quickstart.CURVES, quickstart.PANEL):
        assert Image.open(folder / picture).size[0] > 300
    assert (folder / "mine.txt").read_text() == "keep"
