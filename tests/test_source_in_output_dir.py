"""`--overwrite_output_dir` never deletes the source, by whatever path or link it is in the folder to be replaced."""

import shutil

import pytest
from image_trees import TREES, all_bytes, check_error, run
from mnist_files import build, cmnist

OVERWRITE = ("--overwrite_output_dir", "--dataset_config_names", "1pct")


def refused(capsys, script: str, status: int) -> None:
    assert status == 2
    check_error(capsys, script, "source outside output_dir", "name another folder")


@pytest.fixture
def out(mnist_folder, tmp_path):
    """A folder with other files that holds the digits, too."""
    shutil.copytree(mnist_folder, tmp_path / "out" / "mnist")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    return tmp_path / "out"


@pytest.mark.parametrize("source", ["parquet", "hub"])
@pytest.mark.parametrize("place", ["itself", "inside", "another way", "link to source", "link to output"])
def test_digits_in_the_output_folder_are_kept(out, tmp_path, capsys, source, place):
    folder, output = out / "mnist", out
    if place == "itself":
        output = folder
    elif place == "another way":
        folder = tmp_path / "out" / ".." / "out" / "mnist"
    elif place == "link to source":
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    elif place == "link to output":
        (tmp_path / "link").symlink_to(out)
        output = tmp_path / "link"
    before = all_bytes(out)
    options = ["--source", source, "--source_dir" if source == "parquet" else "--source_id", str(folder)]
    refused(capsys, "cmnist", cmnist.main([*options, "--output_dir", str(output), *OVERWRITE]))
    assert all_bytes(out) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "link"}


def test_digits_of_which_one_file_is_a_link_into_the_output_folder(out, mnist_folder, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for file in mnist_folder.iterdir():
        (source / file.name).symlink_to(out / "mnist" / file.name if "test" in file.name else file)
    before = all_bytes(out)
    refused(capsys, "cmnist", build(source, out, *OVERWRITE))
    assert all_bytes(out) == before


@pytest.mark.parametrize("script", list(TREES))
def test_images_that_are_linked_from_the_output_folder(script, tmp_path, capsys):
    """One folder of the source is a link to where the dataset is to be written."""
    root = TREES[script](tmp_path / "source").root
    part = next(path for path in sorted(root.iterdir()) if path.is_dir())
    (tmp_path / "out").mkdir()
    part.rename(tmp_path / "out" / part.name)
    part.symlink_to(tmp_path / "out" / part.name)
    before = all_bytes(tmp_path / "out")
    assert len(before) > 0
    refused(capsys, script, run(script, root, tmp_path / "out", "--overwrite_output_dir"))
    assert all_bytes(tmp_path / "out") == before


def test_archive_in_the_output_folder_is_kept(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    archive = shutil.make_archive(str(tmp_path / "out" / "bffhq"), "zip", TREES["bffhq"](tmp_path / "bffhq").root)
    before = all_bytes(tmp_path / "out")
    refused(capsys, "bffhq", run("bffhq", archive, tmp_path / "out", "--overwrite_output_dir", by="--archive"))
    assert all_bytes(tmp_path / "out") == before


def test_links_to_elsewhere_are_as_good_as_files(mnist_folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in mnist_folder.iterdir():
        (source / file.name).symlink_to(file)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.txt").write_text("old")
    assert build(source, tmp_path / "out", *OVERWRITE) == 0
    assert not (tmp_path / "out" / "old.txt").exists() and len(list(mnist_folder.iterdir())) > 1
