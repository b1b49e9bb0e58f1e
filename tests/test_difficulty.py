"""What evaluations say of the training images of LfF and DisEnt: means over the table of losses at that step."""

import datasets
import numpy as np
import pytest
from runs import content, history, results, train
from safetensors.numpy import load_file
from synthetic import coloured_digits

from hf_biasensemble.evaluation.difficulty import mean_difficulty

EACH = {"eval_steps": 4, "save_steps": 4}


def scaled_by_hand(folder, step, data):
    """Scaled losses of the biased and the debiased model of each image seen until then, and which images these are."""
    table = load_file(folder / f"checkpoint-{step}" / "sample_losses.safetensors")
    labels = np.array(datasets.load_dataset(str(data), split="train")["label"])
    largest = np.array([table["averages"][labels == label].max(axis=0) for label in labels])
    return (table["averages"] / (largest + 1e-8)).T, table["seen"]


def by_hand(folder, step, data, groups):
    (biased, debiased), seen = scaled_by_hand(folder, step, data)
    columns = {
        "relative_difficulty": biased / (biased + debiased + 1e-8),
        "biased_loss": biased,
        "debiased_loss": debiased,
    }
    return {
        f"train_{group}{name}": column[seen & members].mean()
        for name, column in columns.items()
        for group, members in groups.items()
    }


def recorded(row):
    return {name: float(value) for name, value in row.items() if name.startswith("train_")}


@pytest.mark.parametrize("method", ["lff", "disent_be"])
def test_history_holds_the_means_of_both_groups(digits, tmp_path, method):
    assert train(digits, tmp_path / "out", method, **EACH) == 0
    conflicting = np.array(datasets.load_dataset(str(digits), split="train")["is_conflicting"])
    groups = {"aligned_": ~conflicting, "conflicting_": conflicting}
    rows = history(tmp_path / "out")
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    for row in rows:
        assert recorded(row) == pytest.approx(by_hand(tmp_path / "out", row["step"], digits, groups), abs=1e-6)
        assert all(0 < value < 1 for value in recorded(row).values())
    _, seen = scaled_by_hand(tmp_path / "out", 4, digits)
    assert seen.sum() == 64 < 96  # what was not seen yet would count as 0
    kept = results(tmp_path / "out")
    assert recorded(rows[-1]) == {name: kept[name] for name in recorded(rows[-1])}


def test_without_bias_labels_there_is_one_mean_over_all(tmp_path):
    data = coloured_digits(tmp_path / "data", leave_out=["bias_label", "is_conflicting"])
    assert train(data, tmp_path / "out", "lff_be", **EACH) == 0
    for row in history(tmp_path / "out"):
        assert list(recorded(row)) == ["train_relative_difficulty", "train_biased_loss", "train_debiased_loss"]
        assert recorded(row) == pytest.approx(by_hand(tmp_path / "out", row["step"], data, {"": True}), abs=1e-6)


def test_rows_that_are_held_out_do_not_count(digits, tmp_path):
    """The training split is a part of the rows as loaded; bias labels are known of all."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.parquet").write_bytes((digits / "train.parquet").read_bytes())
    assert train(data, tmp_path / "out", "lff", validation_share=0.25, test_share=0.25, **EACH) == 0
    conflicting = np.array(datasets.load_dataset(str(digits), split="train")["is_conflicting"])
    groups = {"aligned_": ~conflicting, "conflicting_": conflicting}
    last = history(tmp_path / "out")[-1]
    assert recorded(last) == pytest.approx(by_hand(tmp_path / "out", 12, digits, groups), abs=1e-6)
    assert scaled_by_hand(tmp_path / "out", 12, digits)[1].sum() == 48


def test_measuring_changes_nothing(digits, tmp_path):
    """Weights, optimiser, random states and tables are those of a run that was never evaluated."""
    assert train(digits, tmp_path / "never", "disent_be", eval_strategy="no", save_steps=12) == 0
    assert train(digits, tmp_path / "often", "disent_be", eval_steps=1, save_steps=12) == 0
    never, often = (content(tmp_path / name / "checkpoint-12") for name in ("never", "often"))
    told_apart = {"trainer_state.json", "training_args.bin"}
    assert len(never.keys() - told_apart) >= 5
    assert {name for name in never if never[name] != often[name]} <= told_apart


def test_erm_has_no_such_columns(digits, tmp_path):
    assert train(digits, tmp_path / "out", "erm", **EACH) == 0
    assert not recorded(history(tmp_path / "out")[0])


def test_run_without_evaluated_splits_still_records_them(digits, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.parquet").write_bytes((digits / "train.parquet").read_bytes())
    assert train(data, tmp_path / "out", "lff", validation_share=0, test_share=0, **EACH) == 0
    rows = history(tmp_path / "out")
    assert [row["step"] for row in rows] == ["4", "8", "12"] and len(recorded(rows[0])) == len(rows[0]) - 1 == 6
    assert results(tmp_path / "out")["train_conflicting_relative_difficulty"] == float(
        rows[-1]["train_conflicting_relative_difficulty"]
    )
    assert [file.name for file in (tmp_path / "out" / "figures").iterdir()] == ["relative_difficulty.png"]


def test_tensorboard_shows_them(digits, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert train(digits, tmp_path / "out", "lff", **EACH, report_to="tensorboard", save_strategy="no") == 0
    events = reader.EventAccumulator(str(next((tmp_path / "out").rglob("events.out.tfevents.*")).parent)).Reload()
    name = "train_conflicting_relative_difficulty"
    shown = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
    assert shown == [(int(row["step"]), pytest.approx(float(row[name]))) for row in history(tmp_path / "out")]


def test_a_group_without_images_is_left_out():
    values = {"biased_loss": np.array([0.2, 0.4], dtype=np.float32)}
    assert mean_difficulty(values, np.array([False, False])) == {"aligned_biased_loss": pytest.approx(0.3)}
    none = {"biased_loss": np.zeros(0)}
    assert mean_difficulty(none) == mean_difficulty(none, np.zeros(0, dtype=bool)) == {}
