"""Images are decoded once for all commands, also where few images would fit into memory; files that are written are
there whole, and no file of the user's is in the way."""

import datasets
import pytest
from runs import words
from synthetic import coloured_digits

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data import decoding
from hf_biasensemble.internal.files import remove_unfinished, written_whole


@pytest.fixture
def decoded(monkeypatch, tmp_path) -> list:
    """A record for each image that was decoded; the cache is cold."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    seen: list = []
    decode_image = decoding.decode_image

    def watched(record, geometry):
        seen.append(record)
        return decode_image(record, geometry)

    monkeypatch.setattr(decoding, "decode_image", watched)
    return seen


def test_five_commands_in_a_row_decode_each_image_once(decoded, tmp_path):
    """But for `check-data`, whose contact sheet has a size of its own."""
    data, out = coloured_digits(tmp_path / "data"), tmp_path / "out"
    given = {"member_threshold": 0.3}
    assert run_command("audit", words(data, tmp_path / "audit", "lff_be", **given)) == 0
    assert run_command("train", words(data, tmp_path / "erm", "erm")) == 0
    assert run_command("train", words(data, out, "lff_be", **given)) == 0
    on_cpu = ["--dataset_name", str(data), "--use_cpu", "true"]
    compared = ["--model", str(out), "--compare_with", str(tmp_path / "erm")]
    assert run_command("judge", [*compared, "--members", str(out), *on_cpu]) == 0
    assert run_command("explain", [*compared, *on_cpu]) == 0
    assert len(decoded) == 96 + 32 + 64


# Temporary files -----------------------------------------------------------------------------------------------------


def test_files_that_are_written_at_once_beside_others_of_their_stem_do_not_meet(tmp_path):
    mine = tmp_path / "results.unfinished"
    mine.write_text("the user's own")
    with written_whole(tmp_path / "results.csv") as table, written_whole(tmp_path / "results.json") as text:
        with written_whole(tmp_path / "results.csv") as other:
            assert len({table, text, other, mine}) == 4
            for file in (table, text, other):
                assert file.parent == tmp_path
                file.write_text(file.name)
    assert (tmp_path / "results.csv").read_text() == table.name
    assert (tmp_path / "results.json").read_text() == text.name
    assert {file.name for file in tmp_path.iterdir()} == {"results.csv", "results.json", "results.unfinished"}
    assert mine.read_text() == "the user's own"


def test_nothing_is_left_of_a_file_whose_writing_failed(tmp_path):
    (tmp_path / "it.txt").write_text("before")
    with pytest.raises(OSError, match="full"), written_whole(tmp_path / "it.txt") as file:
        file.write_text("half")
        raise OSError("disk full")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_what_a_killed_process_left_is_removed_by_the_next_writer_of_the_folder(tmp_path):
    with written_whole(tmp_path / "it.txt") as file:
        file.write_text("half")
        left = file.read_text()
    file.write_text(left)  # as a killed process leaves it
    (tmp_path / ".notes.unfinished").write_text("the user's own")
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"it.txt", ".notes.unfinished"}
