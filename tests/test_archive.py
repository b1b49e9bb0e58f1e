"""Zip files of datasets: unpacked like the folder, refused where they could do harm."""

import stat
import struct
import zipfile

import pytest
from image_trees import TOP, TREES, all_bytes, bffhq_tree, check_error, run


@pytest.fixture
def bffhq(tmp_path):
    return bffhq_tree(tmp_path / "bffhq").root


def zipped(root, file, top):
    """A zip of a tree, with the litter that some programs add."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._x", b"litter")
        archive.mkdir(top)
        for path in sorted(root.rglob("*")):
            archive.write(path, f"{top}/{path.relative_to(root).as_posix()}")
    return file


@pytest.mark.parametrize("name", TREES)
def test_an_archive_gives_what_its_folder_gives(name, tmp_path):
    top = TOP.get(name, name)
    root = TREES[name](tmp_path / "tree" / top).root
    assert run(name, root, tmp_path / "tree" / "out") == 0
    archive = zipped(root, tmp_path / "data.zip", top)
    assert run(name, archive, tmp_path / "out", by="--archive") == 0
    ours, expected = all_bytes(tmp_path / "out"), all_bytes(tmp_path / "tree" / "out")
    card = (ours.pop("README.md"), expected.pop("README.md"))
    assert len(ours) >= 4 and ours == expected
    assert card[0].decode() == card[1].decode().replace(f"--source_dir {top}", f"--archive {top}.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zip", "out", "tree"]


def member(name, mode=0):
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name  # as an attacker would: the constructor makes names harmless
    info.external_attr = mode << 16
    return info


HARM = {  # names (TMP stands for the test's own folder) and mode of the members
    "parent": (["bffhq/../../escaped.txt"], 0),
    "parent, Windows": (["bffhq\\..\\..\\escaped.txt"], 0),
    "absolute": (["TMP/escaped.txt"], 0),
    "absolute, Windows": (["\\escaped.txt"], 0),
    "drive": (["C:\\escaped.txt"], 0),
    "drive, relative": (["c:escaped.txt"], 0),
    "no name": (["."], 0),
    "null character": (["bffhq/a_0_0.png\0.txt"], 0),
    "symbolic link": (["bffhq/link"], stat.S_IFLNK | 0o777),
    "named pipe": (["bffhq/pipe"], stat.S_IFIFO | 0o644),
    "twice": (["bffhq/valid/a_0_0.png", "bffhq/valid/a_0_0.png"], 0),
    "twice, Windows": (["bffhq/a_0_0.png", "bffhq\\a_0_0.png"], 0),
    "twice, by a dot": (["bffhq/a_0_0.png", "bffhq/./a_0_0.png"], 0),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_harmful_archive_is_refused_before_anything_is_written(bffhq, tmp_path, capsys, harm):
    names, mode = [name.replace("TMP", str(tmp_path)) for name in HARM[harm][0]], HARM[harm][1]
    archive = zipped(bffhq, tmp_path / "bffhq.zip", "bffhq")
    with zipfile.ZipFile(archive, "a") as file:
        for name in names:
            file.writestr(member(name, mode), b"/etc/passwd")
    earlier = tmp_path / "deep" / ".out.unpacked" / "left"  # cleared away by any run that begins to unpack
    earlier.mkdir(parents=True)
    before = all_bytes(tmp_path)
    assert run("bffhq", archive, tmp_path / "deep" / "out", by="--archive") == 2
    check_error(capsys, "bffhq", repr(names[-1]), "nothing was unpacked")
    assert all_bytes(tmp_path) == before
    assert earlier.exists() and [path.name for path in (tmp_path / "deep").iterdir()] == [".out.unpacked"]


def patched(archive, name, offset, value):
    """Sets two or four bytes in the central directory entry of a member."""
    data = bytearray(archive.read_bytes())
    entry = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    data[entry + offset : entry + offset + len(value)] = value
    archive.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (lambda a: None, ["--max_unpacked_size", "20KB"], ["at most 20,000 bytes", "--max_unpacked_size"]),
        (lambda a: patched(a, "zeros", 8, struct.pack("<H", 1)), [], ["zeros", "encrypted"]),
        (lambda a: patched(a, "zeros", 24, struct.pack("<I", 9)), ["--max_unpacked_size", "500KB"], ["zeros", "CRC"]),
        (lambda a: patched(a, "zeros", 10, struct.pack("<H", 77)), [], ["zeros", "compression"]),
        (lambda a: a.write_bytes(a.read_bytes()[:-200]), [], ["could not read", "zip"]),
        (lambda a: a.write_bytes(b"Rar!"), [], ["could not read", "zip"]),
        (lambda a: None, ["--max_unpacked_size", "much"], ["--max_unpacked_size", "'much'"]),
        (lambda a: None, ["--max_unpacked_size", "0"], ["at most 0 bytes", "--max_unpacked_size"]),
    ],
)
def test_a_bomb_or_broken_archive_leaves_nothing(bffhq, tmp_path, capsys, damage, options, words):
    archive = zipped(bffhq, tmp_path / "bffhq.zip", "bffhq")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(2_000_000))
    damage(archive)
    before = all_bytes(tmp_path)
    assert run("bffhq", archive, tmp_path / "out", *options, by="--archive") == 2
    check_error(capsys, "bffhq", *words)
    assert all_bytes(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_bomb_that_says_so_is_refused_before_anything_is_written(bffhq, tmp_path, capsys):
    archive = zipped(bffhq, tmp_path / "bffhq.zip", "bffhq")
    earlier = tmp_path / ".out.unpacked" / "left"
    earlier.mkdir(parents=True)
    assert run("bffhq", archive, tmp_path / "out", "--max_unpacked_size", "20KB", by="--archive") == 2
    check_error(capsys, "bffhq", "at most 20,000 bytes")
    assert earlier.exists()


def test_what_a_killed_run_left_is_removed(bffhq, tmp_path):
    left = tmp_path / ".out.unpacked" / "bffhq" / "valid"
    left.mkdir(parents=True)
    (left / "999_1_1.png").write_bytes(b"old")
    archive = zipped(bffhq, tmp_path / "bffhq.zip", "bffhq")
    assert run("bffhq", archive, tmp_path / "out", by="--archive") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bffhq", "bffhq.zip", "out"]
