"""Every shell command and Python block of README.md and docs/ runs, or says why not.

A block that is not run has a comment before it: `<!-- not run: why -->`. Its command lines are checked all the same.
"""

import argparse
import ast
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from image_trees import SCRIPTS, load_script
from synthetic import coloured_digits
from test_published_commands import SEVERITIES, write_card
from transformers import HfArgumentParser

from hf_biasensemble.cli.main import COMMANDS, run_command

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
NO_COMMANDS = ("bibtex", "math", "text")
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why it is not run, if it is not."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [
        Block(page, text.count("\n", 0, match.start("code")), match["language"], match["code"], match["reason"])
        for match in BLOCK.finditer(text)
    ]
    assert len(re.findall("^ *```", text, re.MULTILINE)) == 2 * len(blocks), f"{page}: a block is not closed"
    assert text.count("<!-- not run") == len([block for block in blocks if block.reason]), f"{page}: no block follows"
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "bash"]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def test_every_block_is_of_a_known_kind():
    assert {block.language for block in BLOCKS} <= {"bash", "python", *NO_COMMANDS, ""}
    for block in BLOCKS:
        if not block.language:
            assert not re.search(r"^(\$|python|hf-|pip|make) ", block.code, re.MULTILINE), f"{block}: name its language"


# Command lines -------------------------------------------------------------------------------------------------------


def command_lines(block: Block) -> list[list[str]]:
    """The words of each command of a block; `...` stands for data and output folder."""
    lines = [shlex.split(line, comments=True) for line in block.code.replace("\\\n", " ").splitlines()]
    for number, words in enumerate(lines):
        if "..." in words:
            place = words.index("...")
            words[place : place + 1] = ["--dataset_name", "data/cmnist", "--dataset_config_name", "1pct"]
            words[place:place] = ["--output_dir", f"outputs/{Path(block.page).stem}_{block.line + number}"]
    return [words for words in lines if words]


def command_of(words: list[str]) -> tuple[Callable[[list[str]], int], list[str]] | None:
    """What a command line calls, and with which arguments; `None` if it is none of this repository's commands."""
    if words[0] == "hf-biasensemble":
        assert words[1] in COMMANDS, words
        return lambda argv: run_command(words[1].replace("-", "_"), argv), words[2:]
    if words[0] in ("python", "accelerate", "torchrun"):
        script = next((word for word in words if word.endswith(".py")), None)
        arguments = words[words.index(script) + 1 :] if script else []
        if script in ("train.py", "test.py"):
            return lambda argv: run_command(script.removesuffix(".py"), argv), arguments
        if script and script.startswith("dataset_scripts/"):
            return load_script(Path(script).stem).main, arguments
    return None


def check_other_command(words: list[str]) -> None:
    """Refuses a line that names something that is not there."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[:2] == ["pip", "install"]:
        extra = re.search(r"\[(\w+)\]$", words[2])
        assert words[2] == "." or re.search(rf"^{extra[1]} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    else:
        raise AssertionError(f"{shlex.join(words)}: no command that can be checked here; mark the block as not run")


class Parsed(Exception):
    """The command line was taken."""


@pytest.fixture
def parsing_only(monkeypatch):
    """Commands that end when their own parser has taken the whole command line."""
    for parser, name in ((HfArgumentParser, "parse_args_into_dataclasses"), (argparse.ArgumentParser, "parse_args")):

        def parse_and_end(*args, parse=getattr(parser, name), **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        monkeypatch.setattr(parser, name, parse_and_end)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_command_lines_are_taken_by_the_real_parsers(block, parsing_only, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # where the recipes are
    for words in command_lines(block):
        command = command_of(words)
        if command is None:
            block.reason or check_other_command(words)
            continue
        main, argv = command
        try:
            status = main(argv)
        except Parsed:
            continue
        pytest.fail(f"{block}: {shlex.join(words)}: exit status {status}, {capsys.readouterr().err}")


def test_commands_in_the_text_exist():
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`hf-biasensemble ([\w-]+)", text))
    assert len(named) > 3
    assert named <= COMMANDS.keys()


# Running them --------------------------------------------------------------------------------------------------------

FEW_STEPS = "--max_steps 2 --member_steps 2 --member_threshold 0 --use_cpu true --disable_tqdm true".split()
FEWER_RUNS = {"--seeds": ["0"], "--dataset_config_names": ["1pct"]}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like the root of the repository, with small data and a finished model under the names that pages use."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("configs", "dataset_scripts", "examples", "benchmarks", "train.py", "test.py"):
        (folder / name).symlink_to(ROOT / name)
    for severity in SEVERITIES["cmnist"]:
        coloured_digits(folder / "data" / "cmnist" / severity)
    write_card(folder / "data" / "cmnist", SEVERITIES["cmnist"])
    write_class_folders(folder / "data" / "cmnist" / "1pct" / "train.parquet", folder / "path" / "to" / "folder")
    (folder / "folder" / "of").mkdir(parents=True)
    (folder / "folder" / "of" / "images").symlink_to(folder / "path" / "to" / "folder")
    (folder / "photo.jpg").symlink_to(next((folder / "path").rglob("*.png")))
    network = "--backbone test_resnet --image_size 32"
    data = f"--dataset_name {folder}/data/cmnist --dataset_config_name 1pct"
    options = f"{network} {data} --method lff_be --output_dir {folder}/me/mine"
    assert run_command("train", [*options.split(), *FEW_STEPS]) == 0
    return folder


def write_class_folders(parquet: Path, folder: Path) -> None:
    """The images of a split as files, in a folder for each class."""
    import datasets

    data = datasets.Dataset.from_parquet(str(parquet)).cast_column("image", datasets.Image(decode=False))
    names = data.features["label"].names
    for number, row in enumerate(data):
        file = folder / names[row["label"]] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"]["bytes"])


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON if not block.reason}))
def test_python_blocks_run_one_after_another(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    namespace: dict = {}
    for block in PYTHON:
        if block.page == page and not block.reason:
            code = "\n" * block.line + block.code  # so that a traceback has the line of the page
            exec(compile(code, str(ROOT / page), "exec"), namespace)


@pytest.mark.parametrize("block", [block for block in PYTHON if block.reason], ids=str)
def test_python_blocks_that_are_not_run_are_python(block):
    ast.parse(block.code)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in SHELL if not block.reason}))
def test_shell_blocks_run_one_after_another(page, workplace, monkeypatch, capsys):
    """Training commands make two steps, and sweeps one seed."""
    monkeypatch.chdir(workplace)
    for block in SHELL:
        for words in command_lines(block) if block.page == page and not block.reason else ():
            command = command_of(words)
            if command is None:
                continue  # make and pip: checked above
            main, argv = command
            if {"train.py", "sweep", "audit"} & set(words):
                fewer = [word for option, values in FEWER_RUNS.items() if option in argv for word in (option, *values)]
                argv = [*argv, *FEW_STEPS, *fewer]
            assert main(argv) == 0, f"{block}: {shlex.join(words)}: {capsys.readouterr().err}"
