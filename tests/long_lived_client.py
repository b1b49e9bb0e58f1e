"""Commands one after another in one other process, which imports the libraries once.

Run as a script, it reads a command per line and answers with its status and output.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fresh_python import environment


class LongLivedClient:
    """The process; a context manager. What is global in it, as variables of the environment are, stays as it began."""

    def __init__(self, folder: Path, **variables: str):
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment(folder, **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def __enter__(self) -> "LongLivedClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()  # no more commands: it ends
        self.errors.close()

    def run(self, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs `hf-biasensemble` with these words, in a folder."""
        assert self.process.stdin and self.process.stdout
        place = self.errors.seek(0, os.SEEK_END)
        self.process.stdin.write(json.dumps([str(cwd), *map(str, words)]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.errors.seek(place)
        logged = self.errors.read()
        assert answer, logged
        status, stdout, stderr = json.loads(answer)
        return subprocess.CompletedProcess(words, status, stdout, stderr + logged)


def main() -> None:
    from huggingface_hub.utils import close_session

    from hf_biasensemble.cli import main as cli

    for line in sys.stdin:
        folder, *words = json.loads(line)
        os.chdir(folder)
        close_session()  # connections that the last command has left
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            sys.argv[1:] = words
            status = cli.main()
        print(json.dumps([status, stdout.getvalue(), stderr.getvalue()]), flush=True)


if __name__ == "__main__":
    main()
