"""Votes, the saved table, what a selection says of the data, and when a run makes, keeps or refuses one."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import content, error_line, results, selection_inputs, train, words
from synthetic import coloured_digits

from hf_biasensemble.arguments import SelectionArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection

NAMES = ["cat", "dog", "fox"]


def selection(**changes) -> Selection:
    content = {
        "index": np.array([0, 2, 3, 7]),
        "labels": np.array([0, 1, 2, 0]),
        "votes": np.array([3, 0, 2, 3]),
        "mean_probability": np.array([0.99, 0.2, 0.7, 0.95], dtype=np.float32),
        "is_selected": np.array([True, False, True, True]),
        "provenance": {"seed": 4, "threshold": 0.99, "image_mean": [0.5, 0.5, 0.5], "backbone_args": None},
    }
    return Selection(**(content | changes))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=12),
    st.floats(0, 1, width=32, exclude_max=True),
    st.integers(1, 3),
)
def test_votes_equal_the_loop(samples, threshold, agreement):
    probabilities = np.array(samples, dtype=np.float32).T
    labels = np.zeros(len(samples), dtype=np.int64)
    made = Selection.from_votes(probabilities, np.arange(len(samples)), labels, threshold, agreement)
    votes = [sum(probability > threshold for probability in sample) for sample in samples]
    assert made.votes.tolist() == votes
    assert made.is_selected.tolist() == [count >= agreement for count in votes]
    assert made.mean_probability.tolist() == pytest.approx([sum(sample) / 3 for sample in samples], abs=1e-6)


def test_probability_equal_to_the_threshold_is_no_vote():
    probabilities = np.array([[0.75, np.nextafter(np.float32(0.75), np.float32(1))]], dtype=np.float32)
    made = Selection.from_votes(probabilities, np.arange(2), np.zeros(2, dtype=int), threshold=0.75, agreement=1)
    assert made.votes.tolist() == [0, 1]


@pytest.mark.parametrize("with_bias", [True, False])
def test_saved_selection_comes_back_whole(tmp_path, with_bias):
    extra = {"bias_labels": np.array([0, 0, 2, 1]), "is_conflicting": np.array([False, True, False, True])}
    saved = selection(**(extra if with_bias else {}))
    saved.save(tmp_path / "new" / "folder")
    loaded = Selection.load(tmp_path / "new" / "folder")
    assert loaded.provenance == saved.provenance
    for name in ("index", "labels", "votes", "mean_probability", "is_selected", "bias_labels", "is_conflicting"):
        before, after = getattr(saved, name), getattr(loaded, name)
        if before is None:
            assert after is None, name
        else:
            assert np.array_equal(before, after) and before.dtype == after.dtype, name
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["selection.parquet"]


def test_saved_table_has_the_documented_columns(tmp_path):
    extra = {"bias_labels": np.zeros(4, dtype=int), "is_conflicting": np.zeros(4, dtype=bool)}
    columns = pq.read_table(selection(**extra).save(tmp_path)).column_names
    assert columns == ["index", "label", "bias_label", "is_conflicting", "votes", "mean_probability", "is_selected"]


def test_saving_again_replaces_the_file(tmp_path):
    selection().save(tmp_path)
    selection(votes=np.array([1, 1, 1, 1])).save(tmp_path)
    assert Selection.load(tmp_path).votes.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("content", ["missing", "text", "truncated", "another table", "no provenance"])
def test_unreadable_file_is_named(tmp_path, content):
    file = tmp_path / "selection.parquet"
    if content == "text":
        file.write_text("votes: many")
    elif content == "truncated":
        selection().save(tmp_path)
        file.write_bytes(file.read_bytes()[:-100])
    elif content == "another table":
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"hf_biasensemble": "{}"}), file)
    elif content == "no provenance":
        selection().save(tmp_path)
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    with pytest.raises(BiasEnsembleError) as caught:
        Selection.load(tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mask_marks_rows_by_index_also_with_gaps():
    assert np.flatnonzero(selection().mask(9)).tolist() == [0, 3, 7]
    shuffled = selection(index=np.array([7, 0, 2, 3]))
    assert np.flatnonzero(shuffled.mask(9)).tolist() == [2, 3, 7]
    assert shuffled.mask(9).dtype == bool and len(shuffled.mask(9)) == 9


def test_selection_with_every_class_passes():
    selection(labels=np.array([0, 0, 1, 2])).check(NAMES)


def test_lacking_classes_and_the_settings_to_relax_are_named():
    with pytest.raises(BiasEnsembleError) as caught:
        selection(labels=np.array([0, 1, 0, 2]), is_selected=np.array([True, False, True, False])).check(NAMES)
    message = str(caught.value)
    assert "has no sample of dog, fox" in message and "cat" not in message
    assert "2 of 4" in message
    for option in ("--member_threshold", "--member_agreement", "--member_steps"):
        assert option in message


def test_empty_selection_says_so():
    with pytest.raises(BiasEnsembleError, match=r"is empty \(0 of 4 samples kept\).*--member_threshold"):
        selection(is_selected=np.zeros(4, dtype=bool)).check(NAMES)


def test_summary_measures_recall_and_leak():
    conflicting = np.array([False, False, True, False])
    summary = selection(is_conflicting=conflicting).summary()
    assert summary == {
        "selection_size": 3,
        "selection_aligned_recall": pytest.approx(2 / 3),
        "selection_conflicting_leak": 1.0,
    }


def test_summary_leaves_out_what_is_not_known():
    assert selection().summary() == {"selection_size": 3}
    aligned_only = selection(is_conflicting=np.zeros(4, dtype=bool)).summary()
    assert aligned_only == {"selection_size": 3, "selection_aligned_recall": 0.75}


# In a run ------------------------------------------------------------------------------------------------------------


def test_selection_made_from_the_same_is_reused(copy_of, digits):
    folder = copy_of("lff_be")
    made, summary = make_selection(*selection_inputs(digits, folder))
    assert "selection_runtime" not in summary
    assert np.array_equal(made.is_selected, Selection.load(folder / "selection").is_selected)


@pytest.mark.parametrize("name, value", [("seed", 1), ("member_steps", 29), ("image_scale", 2.0), ("data", None)])
def test_selection_made_from_something_else_is_refused_by_name(copy_of, digits, tmp_path, name, value):
    folder = copy_of("lff_be")
    before = content(folder)
    data = coloured_digits(tmp_path / "other", seed=5) if name == "data" else digits
    inputs = selection_inputs(data, folder, **({} if name == "data" else {name: value}))
    named = "train_fingerprint" if name == "data" else name
    with pytest.raises(BiasEnsembleError, match=rf"made with other settings: {named} \(then: .*remove it"):
        make_selection(*inputs)
    assert content(folder) == before


def test_empty_selection_names_the_settings_to_relax(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "lff_be", member_threshold=0.9999, member_steps=1) == 2
    message = error_line(capsys)
    assert "is empty (0 of 96 samples kept)" in message
    assert "--member_threshold" in message and "--member_agreement" in message and "--member_steps" in message
    assert not (tmp_path / "out" / "selection" / "selection.parquet").exists()
    # Nothing was lost with that folder, so the mended command may use it.
    assert train(digits, tmp_path / "out", "lff_be", max_steps=1) == 0


def test_best_members_with_shared_batches_still_find_the_aligned_images(digits, tmp_path):
    changes = {
        "keep_member": "best",
        "member_eval_steps": 7,
        "share_batches": "true",
        "crop_padding": 1,
        "max_steps": 1,
    }
    assert train(digits, tmp_path / "out", "lff_be", member_threshold=0.3, **changes) == 0
    assert results(tmp_path / "out")["selection_aligned_recall"] > 0.9


def test_best_members_need_a_validation_split(digits, tmp_path, capsys):
    data = datasets.load_dataset(str(digits))
    datasets.DatasetDict({"train": data["train"]}).save_to_disk(tmp_path / "data")
    best = {"keep_member": "best", "member_eval_steps": 7}
    assert train(tmp_path / "data", tmp_path / "out", "lff_be", **best, validation_share=0) == 2
    assert "--keep_member best: expected a validation split" in error_line(capsys)


@pytest.mark.parametrize("command", ["train", "audit"])
@pytest.mark.parametrize("changes", [{"keep_member": "best", "member_eval_steps": 30}, {"published_protocol": "true"}])
def test_members_evaluated_only_after_one_update_are_refused(digits, tmp_path, capsys, command, changes):
    out = tmp_path / "out"
    out.mkdir()
    (out / "all_results.json").write_text("{}")
    changes = {**changes, "member_steps": 30, "overwrite_output_dir": "true"}
    assert run_command(command, words(digits, out, "lff_be", **changes)) == 2
    message = error_line(capsys)
    assert "--member_steps: expected more than member_eval_steps (" in message
    assert "a single update, found 30; " in message
    assert message.endswith("raise it, lower --member_eval_steps, or use --keep_member last")
    assert [path.name for path in out.iterdir()] == ["all_results.json"]


def test_methods_without_members_refuse_their_options(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "erm", keep_member="best") == 2
    assert "option --keep_member in the command line has no effect with --method erm" in error_line(capsys)


def test_members_evaluated_twice_are_not_refused():
    SelectionArguments(keep_member="best", member_steps=31, member_eval_steps=30).check_evaluations()
    SelectionArguments(keep_member="best").check_evaluations()  # the published setting
