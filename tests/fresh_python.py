"""Python in processes of their own, with and without the library."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
WITHOUT_LIBRARY = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_biasensemble":
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
try:
    import hf_biasensemble
except ImportError as error:
    assert "blocked" in str(error)
else:
    raise SystemExit("the library can be imported")
"""
"""To be put before the code of an isolated process."""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Variables of a process on the processor that finds the library and keeps its caches in this folder."""
    own = {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hf_home"), "CUDA_VISIBLE_DEVICES": ""}
    shared = {name: value for name, value in os.environ.items() if name != "HF_DATASETS_CACHE"}
    return shared | own | variables


def fresh_python(
    *words: str | Path, cwd: Path, isolated: bool = False, timeout: float | None = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs an interpreter to its end.

    Args:
        words: A script, or `-c` and code, and what is given to it.
        cwd: The folder it is in, and keeps its caches in.
        isolated: Leave the folder and `PYTHONPATH` out of where modules are looked for.
        timeout: Seconds after which it has failed.
        variables: Of the environment.
    """
    command = [sys.executable, *(["-I"] if isolated else []), *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=environment(cwd, **variables), capture_output=True, text=True, timeout=timeout
    )


def only_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command which failed has printed as its error."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    return errors[0]
