"""Parquet and Arrow files as other libraries write them, special files, and folders that change behind links."""

import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from loaded import load_splits
from synthetic import png, write_parquet

from hf_biasensemble.data.pixels import decode_split
from hf_biasensemble.internal.errors import BiasEnsembleError

GREYS = [10, 20, 30, 40]
LABELS = ["ant", "owl", "ant", "owl"]


def contents(greys: list[int] = GREYS) -> list[bytes]:
    return [png(np.full((4, 4, 3), grey, np.uint8)) for grey in greys]


def seen(name: Path | str, **columns: str) -> dict[str, list[tuple[str, int]]]:
    """Class and grey value of each image of each split."""
    splits = load_splits(str(name), **columns)
    greys = {use: decode_split(split, 4).pixels[:, 0, 0, 0].tolist() for use, split in splits.items()}
    return {
        use: [(split.class_names[label], grey) for label, grey in zip(split.labels, greys[use], strict=True)]
        for use, split in splits.items()
    }


EXPECTED = list(zip(LABELS, GREYS, strict=True))


@pytest.mark.parametrize(
    "images",
    [
        pa.array(contents(), pa.binary()),
        pa.array(contents(), pa.large_binary()),
        pa.array([{"bytes": content, "path": "x.png"} for content in contents()]),
        pa.array([{"path": None, "bytes": content} for content in contents()]),
    ],
    ids=["bytes", "large bytes", "bytes and path", "path and bytes"],
)
@pytest.mark.parametrize("place", ["train.parquet", "data/train-00000-of-00001.parquet", "[x] *?/all.parquet"])
def test_images_in_parquet_without_the_metadata_of_datasets(tmp_path, images, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": LABELS}), tmp_path / place)
    assert seen(tmp_path / place.partition("/")[0] if "[" in place else tmp_path) == {"train": EXPECTED}


def test_arrow_file(tmp_path):
    pyarrow.feather.write_feather(
        pa.table({"image": contents(), "label": LABELS}), tmp_path / "all.arrow", "uncompressed"
    )
    assert seen(tmp_path / "all.arrow") == {"train": EXPECTED}


def test_parts_of_splits_and_a_split_of_another_name(tmp_path, capsys):
    for part, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "holdout-00000-of-00001"]):
        rows = slice(2 * part, 2 * part + 2) if part < 2 else slice(0, 1)
        table = pa.table({"image": contents()[rows], "label": LABELS[rows]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(BiasEnsembleError, match="tables named after splits, found holdout-00000-of-00001.parquet and"):
        load_splits(str(tmp_path))
    (tmp_path / "holdout-00000-of-00001.parquet").rename(tmp_path / "test-00000-of-00001.parquet")
    assert seen(tmp_path) == {"train": EXPECTED, "test": EXPECTED[:1]}


def test_column_of_splits_in_parquet(tmp_path):
    split = pa.array([0, 0, 1, 2], pa.int32())
    pq.write_table(pa.table({"image": contents(), "label": LABELS, "split": split}), tmp_path / "all.parquet")
    assert seen(tmp_path) == {"train": EXPECTED[:2], "validation": EXPECTED[2:3], "test": EXPECTED[3:]}


def test_column_of_splits_that_holds_lists_is_refused_by_name(tmp_path):
    table = pa.table({"image": contents(), "label": LABELS, "tags": [["train"]] * 4})
    pq.write_table(table, tmp_path / "all.parquet")
    with pytest.raises(BiasEnsembleError, match=r"in the column 'tags' given by --split_column, found List\("):
        load_splits(str(tmp_path), split_column="tags")


def paths_in_parquet(folder: Path, labels: pa.Array) -> Path:
    """Four images in split folders, and a table of their paths."""
    names = [f"{split}/{number}.png" for split in ("train", "test") for number in range(2)]
    for name, content in zip(names, contents(), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    pq.write_table(pa.table({"image": names, "label": labels}), folder / "list.parquet")
    return folder


def test_splits_in_paths_in_parquet(tmp_path, capsys):
    assert seen(paths_in_parquet(tmp_path, LABELS)) == {"train": EXPECTED[:2], "test": EXPECTED[2:]}
    assert "by the folders in its paths" in capsys.readouterr().out


@pytest.mark.parametrize("paths", [False, True])
def test_test_images_of_class_minus_one_in_parquet_have_no_label(tmp_path, capsys, paths):
    content = contents(GREYS + [50, 60])
    for number, each in enumerate(content):
        (tmp_path / f"{number}.png").write_bytes(each)
    images = [f"{number}.png" for number in range(6)] if paths else [{"bytes": b, "path": None} for b in content]
    features = datasets.Features(
        image=datasets.Value("string") if paths else datasets.Image(),
        label=datasets.ClassLabel(names=["ant", "owl"]),
        split=datasets.Value("string"),
    )
    columns = {"image": images, "label": [0, 1, 0, 1, -1, -1], "split": ["train"] * 4 + ["test"] * 2}
    write_parquet(tmp_path / "all.parquet", columns, features)
    assert seen(tmp_path / "all.parquet") == {"train": EXPECTED}
    assert "the test split is left out, since it has no labels (2 images)" in capsys.readouterr().out


@pytest.mark.parametrize("split", [pa.array([0, 0, 2, 2], pa.uint8()), pa.array([0.0, 0.0, 2.0, 2.0])], ids=str)
def test_whole_numbers_of_any_type_in_a_table_of_paths(tmp_path, split):
    """pandas writes whole numbers with a gap as floats."""
    for number, content in enumerate(contents()):
        (tmp_path / f"{number}.png").write_bytes(content)
    columns = {"file_name": [f"{number}.png" for number in range(4)], "label": [0.0, 1.0, 0.0, 1.0], "split": split}
    pq.write_table(pa.table(columns | {"bias_label": [0.0, None, 1.0, 0.0]}), tmp_path / "metadata.parquet")
    splits = load_splits(str(tmp_path))
    assert {use: found.labels.tolist() for use, found in splits.items()} == {"train": [0, 1], "test": [0, 1]}
    assert splits["train"].class_names == ["0", "1"]
    assert [found.bias_labels.tolist() for found in splits.values()] == [[0, -1], [1, 0]]


@pytest.mark.parametrize("other", ["class folders", "metadata.csv"])
def test_classes_of_parquet_beside_the_same_as_text(tmp_path, other):
    for number, content in enumerate(contents()):
        for file in (f"train/{number}.png", f"test/{LABELS[number] if 'folders' in other else ''}/{number}.png"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(content)
    names = [f"{number}.png" for number in range(4)]
    features = datasets.Features(file_name=datasets.Value("string"), label=datasets.ClassLabel(names=["owl", "ant"]))
    columns = {"file_name": names, "label": [1, 0, 1, 0]}
    write_parquet(tmp_path / "train" / "metadata.parquet", columns, features)
    if other == "metadata.csv":
        rows = [f"{name},{label}\n" for name, label in zip(names, LABELS, strict=True)]
        (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n" + "".join(rows))
    found = seen(tmp_path)
    assert found["train"] == EXPECTED and sorted(found["test"]) == sorted(EXPECTED)


def test_one_image_with_two_labels_in_parquet(tmp_path):
    folder = paths_in_parquet(tmp_path, [0, 1, 0, 1])
    table = pq.read_table(folder / "list.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1).set_column(1, "label", [[1]])]), folder / "list.parquet")
    with pytest.raises(BiasEnsembleError, match="row 4: expected one label for .*train/0.png, found 1, and 0 in"):
        load_splits(str(folder))


def test_paths_in_parquet_may_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "data").mkdir()
    for number, content in enumerate(contents()):
        (tmp_path / f"{number}.png").write_bytes(content)
    table = tmp_path / "data" / "all.parquet"
    pq.write_table(pa.table({"image": [f"../{number}.png" for number in range(4)], "label": LABELS}), table)
    with pytest.raises(BiasEnsembleError, match=r"row 0: expected a file in .*, found ../0.png outside it"):
        load_splits(str(tmp_path / "data"))
    assert seen(table) == {"train": EXPECTED}


CARD = "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    path: train.parquet\n---\n"


@pytest.mark.parametrize("card", [CARD, "# Animals\n", "---\nlicense: mit\n---\n"], ids=["files", "text", "licence"])
def test_folder_with_a_readme_and_signs_of_patterns_in_its_path(tmp_path, card):
    folder = tmp_path / "a[1] *"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    records = [{"bytes": content, "path": None} for content in contents()]
    write_parquet(folder / "train.parquet", {"image": records, "label": LABELS}, features)
    (folder / "README.md").write_text(card)
    assert seen(folder) == {"train": EXPECTED}


def test_what_changes_behind_a_link_is_read_again(tmp_path):
    real, linked = tmp_path / "real.parquet", tmp_path / "linked"
    linked.mkdir()
    (linked / "train.parquet").symlink_to(real)
    for greys in (GREYS, [50, 60, 70, 80]):
        pq.write_table(pa.table({"image": contents(greys), "label": LABELS}), real)
        assert [grey for _, grey in seen(linked)["train"]] == greys


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_only_regular_files_are_opened(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    for name, content in zip(("ant", "owl"), contents(), strict=False):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(content)
    (tmp_path / "data" / "owl" / "2.png").symlink_to(tmp_path / target)
    for mapped in (False, True):
        with pytest.raises(BiasEnsembleError, match=r"row 2 \(.*owl/2.png: not a regular file\)"):
            decode_split(load_splits(str(tmp_path / "data"))["train"], 4, mapped=mapped)
    (tmp_path / "data" / "metadata.csv").symlink_to(tmp_path / target)
    with pytest.raises(BiasEnsembleError, match="metadata.csv: expected a table, found"):
        load_splits(str(tmp_path / "data"))


def test_special_file_called_like_a_table_is_not_opened(tmp_path):
    (tmp_path / "1.png").write_bytes(contents()[0])
    os.mkfifo(tmp_path / "metadata.csv")
    with pytest.raises(BiasEnsembleError, match="metadata.csv: expected a table, found .*special file"):
        load_splits(str(tmp_path))


def test_folder_whose_name_is_not_utf_8_is_refused_by_name(tmp_path):
    for name in (b"ant", b"owl\xff"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        Path(os.fsdecode(folder), "1.png").write_bytes(contents()[0])
    with pytest.raises(BiasEnsembleError, match="names of files in UTF-8, found .*owl.*rename it"):
        load_splits(str(tmp_path))


def test_table_that_ends_inside_a_character_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes("image,label\n1.png,é".encode()[:-1])
    with pytest.raises(BiasEnsembleError, match="expected UTF-8, found the byte 0xC3 in line 2"):
        load_splits(str(tmp_path / "list.csv"))


def test_folder_of_save_to_disk_that_is_not_whole(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(BiasEnsembleError, match="could not be opened"):
        load_splits(str(tmp_path))
