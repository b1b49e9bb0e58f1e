"""Splits that a dataset lacks are cut out of its training split."""

import csv
import json

import numpy as np
import pytest
import torch
from synthetic import coloured_digits, photo

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.held_out import hold_out
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.data.prepare import load_image_splits


def image_split(labels: list[int], rows: list[int] | None = None) -> ImageSplit:
    count = len(labels)
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    chosen = torch.arange(count) if rows is None else torch.tensor(rows)
    return ImageSplit(pixels, torch.tensor(labels), [str(n) for n in range(max(labels) + 1)], chosen)


def rows_of(splits: dict[str, ImageSplit]) -> dict[str, set[int]]:
    return {name: set(split.rows.tolist()) for name, split in splits.items()}


def counts(split: ImageSplit) -> list[int]:
    return np.bincount(split.measured_by()["labels"], minlength=len(split.class_names)).tolist()


MIXED = [0] * 60 + [1] * 30 + [2] * 10


def test_missing_splits_are_cut_in_proportion_and_apart():
    splits = hold_out({"train": image_split(MIXED)}, 0.1, 0.2, seed=0)
    assert list(splits) == ["train", "validation", "test"]
    assert {name: counts(split) for name, split in splits.items()} == {
        "train": [42, 21, 7],
        "validation": [6, 3, 1],
        "test": [12, 6, 2],
    }
    rows = rows_of(splits)
    assert set.union(*rows.values()) == set(range(100)) and sum(map(len, rows.values())) == 100


def test_index_stays_the_row_in_the_split_as_loaded():
    whole = image_split(MIXED)
    for split in hold_out({"train": whole}, 0.1, 0.2, seed=0).values():
        batch = split.__getitems__(range(len(split)))
        assert torch.equal(batch["pixel_values"][:, 0, 0, 0].long(), batch["index"])
        assert torch.equal(batch["labels"], whole.labels[batch["index"]])


def test_same_seed_cuts_the_same_and_another_seed_others():
    first, again, other = (rows_of(hold_out({"train": image_split(MIXED)}, 0.1, 0.2, seed)) for seed in (3, 3, 4))
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_only_the_missing_split_is_cut(capsys):
    test = image_split([0, 1, 2])
    splits = hold_out({"train": image_split(MIXED), "test": test}, 0.1, 0.2, seed=0)
    assert splits["test"] is test and counts(splits["validation"]) == [6, 3, 1]
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "no validation split: of 100 training images, 10 for validation (--validation_share 0.1), --split_seed 0"
    )


def test_nothing_is_cut_or_said_where_nothing_is_to_be(capsys):
    whole = {"train": image_split(MIXED), "validation": image_split(MIXED), "test": image_split(MIXED)}
    assert hold_out(whole, 0.1, 0.1, seed=0) is whole
    alone = {"train": image_split(MIXED)}
    assert hold_out(alone, 0, 0, seed=0) is alone
    assert hold_out({"test": whole["test"]}, 0.1, 0.1, seed=0).keys() == {"test"}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.45, 0.45), (0.5, 0.4)])
def test_small_classes_keep_a_training_image(shares):
    labels = [0] * 40 + [1, 2, 2, 3, 3, 3]
    splits = hold_out({"train": image_split(labels)}, *shares, seed=1)
    assert min(counts(splits["train"])) >= 1
    assert sum(len(split) for split in splits.values()) == len(labels)


def test_many_small_classes_still_give_a_split():
    splits = hold_out({"train": image_split([number // 4 for number in range(40)])}, 0.1, 0, seed=0)
    assert len(splits["validation"]) == 4 and max(counts(splits["validation"])) == 1


def test_too_few_images_give_no_split():
    assert hold_out({"train": image_split([0, 1])}, 0.5, 0, seed=0).keys() == {"train"}


def test_images_that_were_left_out_are_in_no_part():
    rows = [row for row in range(100) if row % 7]
    parts = rows_of(hold_out({"train": image_split(MIXED, rows)}, 0.1, 0.2, seed=0))
    assert set.union(*parts.values()) == set(rows)


def test_bias_labels_do_not_steer_the_cut(tmp_path):
    plain, shuffled = coloured_digits(tmp_path / "a"), coloured_digits(tmp_path / "b", shuffled_bias=True)
    parts = []
    for folder in (plain, shuffled):
        for split in ("validation", "test"):
            (folder / f"{split}.parquet").unlink()
        parts.append(load_image_splits(DataArguments(dataset_name=str(folder)), 8))
    assert rows_of(parts[0]) == rows_of(parts[1])
    assert parts[0]["train"].bias_labels.tolist() != parts[1]["train"].bias_labels.tolist()


def test_training_and_testing_see_the_same_cut(tmp_path, capsys):
    folder, out = tmp_path / "data", tmp_path / "out"
    for number in range(60):
        photo(folder / ("ant", "owl")[number % 2] / f"{number:02}.png", 20 + 3 * number)
    (folder / "owl" / "59.png").write_bytes(b"")
    words = ["--dataset_name", str(folder), "--skip_unreadable_images", "true"]
    training = "--method erm --max_steps 4 --eval_steps 2 --per_device_train_batch_size 8 --use_cpu true"
    training += f" --disable_tqdm true --split_seed 7 --output_dir {out}"
    assert run_command("train", [*words, *training.split()]) == 0
    rows = list(csv.DictReader((out / "dropped_images.csv").open(newline="")))
    assert [(row["split"], row["row"], row["reason"]) for row in rows] == [("train", "59", "empty file")]
    results = json.loads((out / "all_results.json").read_text())
    file = tmp_path / "test.json"
    test = ["--model", str(out), "--split", "test", "--split_seed", "7", "--output_file", str(file)]
    assert run_command("test", [*words, *test]) == 0
    assert json.loads(file.read_text())["test_accuracy"] == pytest.approx(results["test_accuracy"])
