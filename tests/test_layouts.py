"""Folders and tables as people have them: each is read as it is meant, or refused in words that help."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from loaded import load_splits

from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.internal.errors import BiasEnsembleError

ROOT = Path(__file__).parents[1]
FILES = ("folders", "tables", "values")
CASES = [case for file in FILES for case in yaml.safe_load((ROOT / f"tests/cases/{file}.yaml").open())]


def expanded(pattern: str) -> list[str]:
    """`{a,b}/{1..3}.png` as six names."""
    pieces = re.split(r"\{([^}]*)\}", pattern)
    choices = []
    for place, piece in enumerate(pieces):
        numbers = re.fullmatch(r"(\d+)\.\.(\d+)", piece)
        if place % 2 == 0:
            choices.append([piece])
        elif numbers:
            choices.append([str(number) for number in range(int(numbers[1]), int(numbers[2]) + 1)])
        else:
            choices.append(piece.split(","))
    return ["".join(words) for words in itertools.product(*choices)]


def make(case: dict, folder: Path) -> str:
    """Writes the files of a case; images are empty, since nothing may open one."""
    content = {name: "" for pattern in case.get("files", ()) for name in expanded(pattern)} | case.get("text", {})
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name in case.get("folders", ()):
        (folder / name).mkdir()
    for name, target in case.get("links", {}).items():
        (folder / name).symlink_to(target)
    return str(folder / case.get("dataset", ""))


def load(name: str, options: dict[str, str]) -> dict[str, ImageSplit]:
    """As the commands do with these options."""
    return load_splits(name, **options)


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_case(case, tmp_path, capsys):
    name, options = make(case, tmp_path), case.get("options", {})
    if "error" in case:
        with pytest.raises(BiasEnsembleError) as caught:
            load(name, options)
        message = str(caught.value)
        assert "\n" not in message
        assert [words for words in case["error"] if words not in message] == [], message
        return
    splits = load(name, options)
    said = capsys.readouterr().out
    counts = {
        use: dict(Counter(split.class_names[label] for label in split.labels.tolist()))
        for use, split in splits.items()
    }
    assert counts == case["loads"]
    assert [words for words in case.get("says", ()) if words not in said] == [], said
    assert [words for words in case.get("silent", ()) if words in said] == [], said
    for split in splits.values():
        assert split.reading == said.splitlines()[: len(split.reading)]
        for record in split.images["image"]:
            assert Path(record["path"]).is_file()


def test_images_of_class_folders_have_the_class_of_their_folder(tmp_path):
    make({"files": ["seg_{train,test}/{ant,owl}/sub/{1..3}.png"]}, tmp_path)
    for use, split in load_splits(str(tmp_path)).items():
        for record, label in zip(split.images["image"], split.labels, strict=True):
            top, name = Path(record["path"]).relative_to(tmp_path).parts[:2]
            assert (top, name) == (f"seg_{use}", split.class_names[label])


def test_rows_of_a_table_keep_their_labels_when_a_column_splits_them(tmp_path):
    text = "file_name,label,split\n" + "".join(f"{n}.png,{'ab'[n % 2]},{n % 3}\n" for n in range(9))
    make({"files": ["{0..8}.png"], "text": {"metadata.csv": text}}, tmp_path)
    for number, split in enumerate(load_splits(str(tmp_path)).values()):
        for record, label in zip(split.images["image"], split.labels, strict=True):
            row = int(Path(record["path"]).stem)
            assert (row % 3, "ab"[row % 2]) == (number, split.class_names[label])


def test_the_page_lists_the_layouts_of_the_cases():
    page = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \|", page.split("## Layouts")[1].split("##")[0], re.MULTILINE)
    assert rows[1:] == [case["layout"] for case in CASES if "layout" in case]
