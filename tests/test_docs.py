"""Every shell command and Python block of README.md and docs/ runs, or says why not.

A block that is not run here has a comment before it, `<!-- not run: why -->` or `<!-- run by tests/test_of_it.py -->`.
Its command lines are parsed all the same.
"""

import argparse
import ast
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from image_trees import SCRIPTS, load_script
from synthetic import coloured_digits
from test_published_commands import SEVERITIES, write_card

import hf_biasensemble
from hf_biasensemble.arguments.parser import StrictParser
from hf_biasensemble.cli.main import COMMANDS, run_command
from hf_biasensemble.methods import METHODS
from hf_biasensemble.selectors import SELECTORS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
NO_COMMANDS = ("bibtex", "math", "text")
BLOCK = re.compile(
    r"(?:^<!-- (?P<reason>(?:not run: |run by )[^\n]+) -->\n+)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
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
    marks = re.findall("<!-- (?:not run|run by)", text)
    assert len(marks) == len([block for block in blocks if block.reason]), f"{page}: a mark that no block follows"
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "bash"]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def test_every_block_is_of_a_known_kind():
    assert {block.language for block in BLOCKS} <= {"bash", "python", *NO_COMMANDS, ""}
    for block in BLOCKS:
        if not block.language:
            assert not re.search(r"^(\$|python|hf-biasensemble|pip|make) ", block.code, re.MULTILINE), (
                f"{block}: name its language"
            )


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


def trains(words: list[str]) -> bool:
    """Whether a command takes the options of training."""
    return bool({"train.py", "sweep", "audit"} & set(words)) or words[:2] == ["hf-biasensemble", "train"]


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

    def ending(parse):
        def parse_and_end(*args, **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        return parse_and_end

    for parser, name in ((StrictParser, "parse_args_into_dataclasses"), (argparse.ArgumentParser, "parse_args")):
        monkeypatch.setattr(parser, name, ending(getattr(parser, name)))


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
            status = main([*argv, "--use_cpu", "true"] if trains(words) else argv)
        except Parsed:
            continue
        pytest.fail(f"{block}: {shlex.join(words)}: exit status {status}, {capsys.readouterr().err}")


SCRIPT_CALLS = re.findall(r"`(\w+ --source[^`]+)`", (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("call", SCRIPT_CALLS)
def test_data_set_scripts_take_the_options_of_the_table(call, parsing_only):
    with pytest.raises(Parsed):
        run_command("make_dataset", [*shlex.split(call), "--output_dir", "data"])


def test_table_of_data_sets_names_every_script():
    assert {call.split()[0] for call in SCRIPT_CALLS} == {file.stem for file in SCRIPTS.glob("*.py")}


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
@pytest.mark.parametrize(
    "words",
    [
        "spurious correlation",
        "worst-group accuracy",
        "group robustness without group labels",
        "shortcut learning",
        "bias-conflicting",
    ],
)
def test_the_field_s_words_find_the_first_pages(page, words):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").lower().split())
    assert words in text


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_tests_that_run_a_block_exist():
    named = [file for block in BLOCKS if block.reason for file in re.findall(r"tests/\w+\.py", block.reason)]
    assert len(named) > 5
    assert [file for file in named if not (ROOT / file).is_file()] == []


def test_commands_in_the_text_exist():
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`hf-biasensemble ([\w-]+)", text))
    assert len(named) > 3
    assert named <= COMMANDS.keys()


# Messages ------------------------------------------------------------------------------------------------------------


def texts_in_code() -> list[str]:
    """Every string of the code; a value that is put in is one character."""
    texts = []
    for file in [*(ROOT / "hf_biasensemble").rglob("*.py"), *SCRIPTS.glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[sd]", "\0", node.value))
    return texts


def test_messages_of_the_page_on_errors_are_those_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 10
    texts = texts_in_code()
    for message in messages:
        pieces = message.split("…")
        assert sum(map(len, pieces)) >= 15, message
        pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
        assert any(pattern.search(text) for text in texts), message


# Running them --------------------------------------------------------------------------------------------------------


FEW_STEPS = "--max_steps 2 --member_steps 2 --member_eval_steps 1 --member_threshold 0".split()
FEW_STEPS += "--use_cpu true --disable_tqdm true".split()
FEWER_RUNS = {"--seeds": ["0"], "--dataset_config_names": ["1pct"]}


def shortened(words: list[str], argv: list[str]) -> list[str]:
    """The arguments of a command, with which training is a matter of seconds and a sweep has one seed."""
    if not trains(words):
        return argv
    fewer = [word for option, values in FEWER_RUNS.items() if option in argv for word in (option, *values)]
    return [*argv, *FEW_STEPS, *fewer]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like the root of the repository, with small data and a model under the names that the pages use."""
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


@pytest.fixture
def place(workplace, tmp_path, monkeypatch):
    """A workplace of the test's own, as the current folder."""
    shutil.copytree(workplace, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


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
def test_python_blocks_run_one_after_another(page, place, monkeypatch):
    (place / "outputs").mkdir()
    (place / "outputs" / "small").symlink_to(place / "me" / "mine")
    (place / "data" / "small").symlink_to(place / "data" / "cmnist" / "1pct")
    for registry in (METHODS, SELECTORS):
        monkeypatch.setattr(registry, "_found", dict(registry._found))  # what a page adds does not stay
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
def test_shell_blocks_run_one_after_another(page, place, capsys):
    """Training commands make two steps in one process, and sweeps one seed."""
    for block in SHELL:
        for words in command_lines(block) if block.page == page and not block.reason else ():
            command = command_of(words)
            if command is None:
                continue  # make and pip: checked above
            main, argv = command
            assert main(shortened(words, argv)) == 0, f"{block}: {shlex.join(words)}: {capsys.readouterr().err}"


def test_the_api_reference_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: hf_biasensemble\.public\.(\w+)$", page, re.MULTILINE)
    named = [name for name in hf_biasensemble.__all__ if f"`{name}`" in page]
    assert sorted(documented + named) == sorted(hf_biasensemble.__all__)
