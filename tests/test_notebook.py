"""Notebooks: a run in a kernel shows its own progress, and the example runs from beginning to end.

`python tests/test_notebook.py` writes the outputs of the example anew.
"""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from runs import results, words

manager = pytest.importorskip("jupyter_client.manager", reason="ipykernel is not installed")
EXAMPLE = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def outputs_of(cells: list[str], folder, **variables: str) -> list[list[dict]]:
    """Runs cells in a kernel of their own; what a notebook shows of each."""
    kernel, client = manager.start_new_kernel(
        kernel_name="python3", cwd=str(folder), env=os.environ | variables, startup_timeout=120
    )
    try:
        return [outputs_of_cell(client, code) for code in cells]
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def outputs_of_cell(client, code: str) -> list[dict]:
    """The outputs of one cell in the notebook's format; text that follows text of the same stream is joined."""
    request, outputs = client.execute(code), []
    while True:
        message = client.get_iopub_msg(timeout=600)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != request:
            continue
        if kind == "status" and content["execution_state"] == "idle":
            return outputs
        if content.get("name") == "stderr":
            continue  # warnings that name folders of this machine
        if kind == "stream" and outputs and outputs[-1].get("name") == content["name"]:
            outputs[-1]["text"] += content["text"]
        elif kind in ("stream", "display_data", "update_display_data", "execute_result", "error"):
            outputs.append({"output_type": kind, **content})


def text_of(outputs: list[dict]) -> str:
    """What is printed."""
    return "".join(output.get("text", "") for output in outputs)


def how_read(outputs: list[dict]) -> list[str]:
    """The lines on how the data were read: unlike what is trained, they are the same on every machine."""
    starts = ("reading ", "  classes:", "  splits:", "  bias labels:")
    return [line for line in text_of(outputs).splitlines() if line.startswith(starts)]


def example() -> tuple[dict, list[dict]]:
    """The notebook, and its cells of code."""
    notebook = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return notebook, [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_example(folder) -> tuple[list[list[dict]], HubServer]:
    """The outputs of its cells in a folder of their own, and the Hub that it pushed to."""
    with HubServer() as hub:
        cells = ["".join(cell["source"]) for cell in example()[1]]
        return outputs_of(cells, folder, **hub.environment()), hub


@pytest.mark.slow
def test_a_notebook_shows_the_table_of_the_run_alone(digits, tmp_path):
    given = [str(word) for word in words(digits, tmp_path / "out", "erm", disable_tqdm="false")]
    code = f"from hf_biasensemble import run_command\nprint('status', run_command('train', {given!r}))"
    (outputs,) = outputs_of([code], tmp_path)
    printed = text_of(outputs)
    assert "status 0" in printed and "Training erm" in printed, printed
    assert {output["output_type"] for output in outputs} == {"stream"}


@pytest.mark.slow
def test_the_example_runs_and_its_outputs_are_those_of_a_run(tmp_path):
    shown, hub = run_example(tmp_path)
    assert [output for outputs in shown for output in outputs if output["output_type"] == "error"] == []
    committed = [cell["outputs"] for cell in example()[1]]
    for now, then in zip(shown, committed, strict=True):
        assert [output["output_type"] for output in now] == [output["output_type"] for output in then]
        assert how_read(now) == how_read(then)
    every = [output.get("data", {}) for outputs in shown for output in outputs]
    pages = [data["text/html"] for data in every if "<img" in data.get("text/html", "")]
    assert (
        len(pages) == 2 and all(page.count("<img") == 12 for page in pages) and "contradict the shortcut" in pages[1]
    )
    erm, mine = (results(tmp_path / "outputs" / name)["test_accuracy"] for name in ("erm", "mine"))
    assert mine > erm + 0.03
    assert {"README.md", "model.safetensors", "all_results.json"} <= hub.model("me/shapes").files.keys()


def test_the_example_is_small_and_its_outputs_are_committed():
    _, cells = example()
    assert EXAMPLE.stat().st_size < 200_000 and all(cell["outputs"] for cell in cells)
    assert TOKEN not in EXAMPLE.read_text(encoding="utf-8") and "/tmp" not in EXAMPLE.read_text(encoding="utf-8")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


if __name__ == "__main__":
    book, code_cells = example()
    with tempfile.TemporaryDirectory() as place:
        found, _ = run_example(place)
    for number, (cell, outputs) in enumerate(zip(code_cells, found, strict=True), start=1):
        for output in outputs:
            output.pop("transient", None)
            if output["output_type"] == "execute_result":
                output["execution_count"] = number
        cell["execution_count"], cell["outputs"] = number, outputs
    EXAMPLE.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
