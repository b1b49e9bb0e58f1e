"""A run in a Jupyter kernel shows its own progress, and not the table of transformers beside it."""

import os

import pytest
from runs import words

manager = pytest.importorskip("jupyter_client.manager", reason="ipykernel is not installed")


def outputs_of(code: str, folder) -> tuple[list[str], str]:
    """Runs code in a kernel of its own; the types of what a notebook would show, and the printed text."""
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(folder), env=dict(os.environ))
    try:
        client.execute(code)
        kinds, printed = [], ""
        while True:
            message = client.get_iopub_msg(timeout=120)
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            if kind == "status" and content["execution_state"] == "idle" and kinds:
                return kinds, printed
            kinds.append(kind)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


@pytest.mark.slow
def test_a_notebook_shows_the_table_of_the_run_alone(digits, tmp_path):
    given = [str(word) for word in words(digits, tmp_path / "out", "erm", disable_tqdm="false")]
    code = f"from hf_biasensemble import run_command\nprint('status', run_command('train', {given!r}))"
    kinds, printed = outputs_of(code, tmp_path)
    assert "status 0" in printed and "Training erm" in printed and "error" not in kinds, printed
    assert not {"display_data", "update_display_data"} & set(kinds)
