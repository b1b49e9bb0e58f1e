"""A column of vectors in place of images: read, trained on, judged, published, audited; mistakes are one line."""

import csv
import json
import re
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from audits import HOSTILE, Page, audit
from PIL import Image
from runs import METHODS, error_line, results, slow_but, train, weights
from safetensors.torch import load_file

from hf_biasensemble import (
    BiasEnsembleError,
    DataArguments,
    DebiasingArguments,
    ErmTrainer,
    fit,
    load_classifier,
    load_image_splits,
)
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.vectors import vectors_of
from hf_biasensemble.judging.members import Members
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.reporting.card.model_card import REPOSITORY_PLACEHOLDER

WIDTH = 12
OPTIONS = {"feature_column": "embedding", "member_keep": 0.8, "num_members": 2}
COLUMN = {"feature_column": "embedding"}


def split_of(count: int, conflicting_share: float, seed: int, **columns) -> datasets.Dataset:
    """Vectors far from 0, of which one number tells the class and another one, more loudly, the bias attribute."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    conflicting = generator.random(count) < conflicting_share
    bias = np.where(conflicting, 1 - labels, labels)
    vectors = 50 + 3 * generator.normal(size=(count, WIDTH))
    vectors[:, 0] += 6 * labels
    vectors[:, 1] += 30 * bias
    rows = {
        "text": [f"{HOSTILE} row {row}, {'snow' if bias[row] else 'grass'}" for row in range(count)],
        "embedding": vectors.tolist(),
        "label": [("cat", "dog")[label] for label in labels],
        "bias_label": [("grass", "snow")[value] for value in bias],
        "is_conflicting": conflicting.tolist(),
    }
    return datasets.Dataset.from_dict(rows | columns)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    splits = {"train": split_of(160, 0.1, 0), "validation": split_of(80, 0.1, 1), "test": split_of(80, 0.5, 2)}
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def finished(vectors, tmp_path_factory):
    """The run of a method, made once."""
    made = {}

    def run(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(method) / "out"
            known = ALL_METHODS[method].option_names()
            options = {name: value for name, value in OPTIONS.items() if name in known}
            head = {"head": "mlp", "head_hidden": 7} if method.startswith("disent") else {}
            assert train(vectors, made[method], method, **options, **head) == 0
        return made[method]

    return run


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feature",
    [
        datasets.List(datasets.Value("float32")),
        datasets.List(datasets.Value("float64"), length=3),
        datasets.LargeList(datasets.Value("float16")),
        datasets.List(datasets.Value("int64")),
    ],
)
def test_any_list_of_numbers_is_a_vector(feature):
    expected = np.arange(2400 * 3).reshape(-1, 3) % 1000
    data = datasets.Dataset.from_dict({"v": list(expected)}).cast_column("v", feature)
    found = vectors_of(data, "v", "data")
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    assert np.array_equal(vectors_of(data.select(range(2000, 2100)), "v", "data"), expected[2000:2100])


GOOD = [[1.0, 2.0]] * 1500


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, None], "data, column 'v', row 1500: expected a vector, found null"),
        ([*GOOD, [1.0]], "row 1500: expected a vector of 2 numbers, as in the first row, found one of 1"),
        ([[], *GOOD], "row 0: expected a vector, found an empty list"),
        ([*GOOD, [1.0, None]], "row 1500: expected numbers, found null among them"),
        ([*GOOD, [1.0, float("nan")]], "row 1500: expected finite numbers of float32, found NaN, or one that is too"),
        ([*GOOD, [1.0, 1e300]], "row 1500: expected finite numbers of float32, found NaN, or one that is too large"),
        ([["a", "b"]], "column 'v': expected a list of numbers in each row, found List(Value('string'))"),
        ([[[1.0], [2.0]]], "column 'v': expected a list of numbers in each row, found List(List("),
        ([1.0, 2.0], "column 'v': expected a list of numbers in each row, found Value('float64')"),
    ],
)
def test_what_is_no_vector_is_named_by_its_row(rows, message):
    with pytest.raises(BiasEnsembleError) as raised:
        vectors_of(datasets.Dataset.from_dict({"v": rows}), "v", "data")
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_column": "embeddings"}, "split train: expected the column 'embeddings' given by --feature_column"),
        ({"feature_column": "text"}, "column 'text': expected a list of numbers in each row, found Value('string')"),
        ({"backbone": "test_resnet"}, "--backbone: expected it left out with --feature_column, found test_resnet"),
        ({"image_size": 64}, "--image_size: expected it left out with --feature_column, found 64"),
        ({"augmentation": "affine"}, "--augmentation: expected none with --feature_column, found affine"),
        ({"verify_pixels": "true"}, "--verify_pixels: expected false with --feature_column, found True"),
        ({"feature_column": "", "backbone": "features"}, "--backbone: expected --feature_column with it"),
        (
            {"feature_column": "", "head": "mlp"},
            "--head: expected linear without --freeze_backbone or --feature_column",
        ),
    ],
)
def test_mistakes_are_one_line_before_any_training(vectors, tmp_path, capsys, options, message):
    assert train(vectors, tmp_path / "out", **{**COLUMN, **options}) != 0
    assert message in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_vectors_of_another_width_and_text_tables_are_refused(tmp_path, capsys):
    wider = split_of(8, 0.5, 1, embedding=np.ones((8, WIDTH + 1)).tolist())
    datasets.DatasetDict(train=split_of(8, 0.5, 0), test=wider).save_to_disk(tmp_path / "data")
    assert train(tmp_path / "data", tmp_path / "out", **COLUMN) != 0
    assert "split test: expected vectors of 12 numbers, as in split train, found 13" in error_line(capsys)
    split_of(8, 0.5, 0).to_csv(tmp_path / "rows.csv")
    assert train(tmp_path / "rows.csv", tmp_path / "out", **COLUMN) != 0
    assert "--feature_column embedding: expected vectors in Parquet, Arrow, a folder of save_to" in error_line(capsys)


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", slow_but(METHODS, "erm", "lff_be", "disent_be"))
def test_card_opens_what_was_published_with_torch_alone(vectors, finished, tmp_path, method):
    folder = finished(method)
    split = load_image_splits(DataArguments(dataset_name=str(vectors), **COLUMN), 1)["test"]
    classifier, transform, _ = load_classifier(str(folder), of_vectors=True)
    raw = transform(split.pixels_of(split.rows), training=False)
    with torch.inference_mode():
        published = classifier(pixel_values=raw).logits
        # The trained network reads standardised vectors, and its last checkpoint is what was published.
        saved = load_file(folder / "checkpoint-12" / "model.safetensors")
        own = {name.removeprefix("debiased."): value for name, value in saved.items()}
        classifier.load_state_dict({name: own[name] for name in classifier.state_dict()})
        standardised = split.pixels.transform()(split.pixels_of(split.rows), training=False)
        trained = classifier(pixel_values=standardised).logits
    assert (published - trained).abs().max() < 1e-4 and not torch.allclose(raw, standardised)
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    row = raw[3].tolist()
    assert "torch.zeros(1, 12)" in example and len(example.splitlines()) < 20
    example = example.replace(REPOSITORY_PLACEHOLDER, str(folder)).replace("zeros(1, 12)", f"tensor([{row}])")
    alone = "import sys\nfor name in ('hf_biasensemble', 'transformers', 'timm'):\n    sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-I", "-c", alone + example], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == split.class_names[published[3].argmax()], done.stderr


def test_commands_measure_and_judge_what_the_run_says(vectors, finished, tmp_path, capsys):
    folder, options = (
        finished("lff_be"),
        ["--dataset_name", str(vectors), "--feature_column", "embedding", "--use_cpu"],
    )
    measured = tmp_path / "test.json"
    assert run_command("test", ["--model", str(folder), *options, "--output_file", str(measured)]) == 0
    expected = {key: value for key, value in results(folder).items() if key in json.loads(measured.read_text())}
    assert json.loads(measured.read_text()) == pytest.approx(expected) and len(expected) > 4
    judged = [
        "--model",
        str(folder),
        "--compare_with",
        str(finished("erm")),
        "--members",
        str(folder),
        *options,
        "true",
    ]
    assert run_command("judge", judged) == 0
    written = tmp_path / "predicted.csv"
    command = ["--model", str(folder), "--feature_column", "embedding", "--output_file", str(written), str(vectors)]
    assert run_command("predict", command) == 0
    with open(written, newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    right = [row["label"] == label for row, label in zip(rows, split_of(80, 0.5, 2)["label"], strict=True)]
    assert [int(row["row"]) for row in rows] == [*range(80)]
    assert np.mean(right) == pytest.approx(results(folder)["test_accuracy"])


def test_members_say_the_same_when_they_are_loaded(vectors, finished):
    members = Members.load(finished("lff_be"))
    split = load_image_splits(DataArguments(dataset_name=str(vectors), **COLUMN), 1)["validation"]
    kept = results(finished("lff_be"))["validation_judged_by"]
    assert members.digest == kept["members"] and members.groups_of(split).digest == kept["groups"]
    assert len(members.networks.members) == 4  # cross-fitted, as with a pretrained backbone


def test_a_run_from_its_own_config_is_the_same(vectors, finished, tmp_path):
    again = ["--config", str(finished("erm") / "config.yaml"), "--output_dir", str(tmp_path / "out")]
    assert run_command("train", again) == 0
    assert weights(tmp_path / "out") == weights(finished("erm"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("member_steps", "judged", "said"), [(60, 3, "of the 20 of 160"), (12, 0, "cannot tell; the")]
)
def test_auto_chooses_on_vectors_unless_members_cannot_judge(vectors, tmp_path, member_steps, judged, said):
    options = {**OPTIONS, "candidates": ["erm", "logit_adjusted", "last_layer_be"], "folds": 2, "num_members": 5}
    options |= {"member_steps": member_steps, "member_learning_rate": 0.01 if judged else 0.001}
    assert train(vectors, tmp_path / "out", "auto", **options) == 0
    found = results(tmp_path / "out")["candidates"]
    assert len(found["candidates"]) == judged and said in found["sentence"]


def test_images_and_vectors_are_not_taken_for_each_other(vectors, digits, finished, tmp_path, capsys):
    on_images = ["--model", str(finished("erm")), "--dataset_name", str(digits)]
    assert run_command("test", on_images) != 0
    assert "expected a classifier of images, found one of vectors of 12 numbers" in error_line(capsys)
    assert run_command("explain", [*on_images, "--feature_column", "embedding"]) != 0
    assert "--feature_column: expected images, which can be changed to explain, found vectors" in error_line(capsys)
    narrow = split_of(8, 0.5, 1, embedding=np.ones((8, 3)).tolist())
    datasets.DatasetDict(train=narrow, test=narrow).save_to_disk(tmp_path / "narrow")
    on_narrow = ["--model", str(finished("erm")), "--dataset_name", str(tmp_path / "narrow")]
    assert run_command("test", [*on_narrow, "--feature_column", "embedding"]) != 0
    assert "expected vectors of 12 numbers (--feature_column), which the model was trained on" in error_line(capsys)


# Audit ---------------------------------------------------------------------------------------------------------------


def test_audit_shows_texts_and_its_marks_leave_rows_out(vectors, tmp_path, capsys):
    assert audit(vectors, tmp_path / "out", **OPTIONS) == 0
    page = Page(tmp_path / "out" / "audit.html")
    texts = split_of(160, 0.1, 0)["text"]
    assert page.rows and all(row["text"] == texts[row["index"]] and row["image"] == "" for row in page.rows)
    assert (
        "training rows" in page.text
        and "image" not in page.text.lower()
        and not any(tag == "img" for tag, _ in page.tags)
    )
    marked = page.rows[0]
    lines = [f"{marked['index']},{marked['label']},label_error,,{marked['image_hash']}"]
    marks = tmp_path / "marks.csv"
    marks.write_text("\n".join(["index,label,kind,new_label,image_hash", *lines]) + "\n")
    assert train(vectors, tmp_path / "run", **COLUMN, exclude_rows=marks) == 0
    assert "left out" in (tmp_path / "run" / "README.md").read_text()
    marks.write_text(marks.read_text().replace(marked["image_hash"], "sha256:0123456789abcdef"))
    assert train(vectors, tmp_path / "run2", **COLUMN, exclude_rows=marks) != 0
    assert "found another image in row" in error_line(capsys)


def test_audit_shows_images_beside_vectors(tmp_path):
    images = [Image.new("RGB", (40, 30), (row, 0, 0)) for row in range(80)]
    data = split_of(80, 0.1, 0, image=images).cast_column("image", datasets.Image())
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "data")
    assert audit(tmp_path / "data", tmp_path / "out", **OPTIONS) == 0
    assert all(row["image"] and row["text"] for row in Page(tmp_path / "out" / "audit.html").rows)


# Python --------------------------------------------------------------------------------------------------------------


def test_fit_takes_vectors_in_memory(tmp_path):
    data = datasets.DatasetDict(train=split_of(160, 0.1, 0), test=split_of(80, 0.5, 2))
    run = fit(
        data, **COLUMN, method="erm", output_dir=tmp_path / "out", max_steps=60, learning_rate=0.01, use_cpu=True
    )
    vectors = data["test"]["embedding"]
    right = [
        answer["label"] == label for answer, label in zip(run.predict(vectors[:]), data["test"]["label"], strict=True)
    ]
    assert np.mean(right) == pytest.approx(run.results["test_accuracy"])
    assert run.predict(vectors[3])["label"] == run.predict(vectors[:4])[3]["label"]
    for wrong in (vectors[3][:2], "vector.npy", [vectors[:2]]):
        with pytest.raises(BiasEnsembleError, match="predict: expected vectors of .* numbers, found"):
            run.predict(wrong)
    assert "<table>" in run._repr_html_()


def test_a_trainer_of_vectors_needs_no_model(tmp_path):
    data_args = DataArguments("in memory", feature_column=COLUMN["feature_column"], validation_share=0, test_share=0)
    args = DebiasingArguments(tmp_path / "out", max_steps=2, use_cpu=True, disable_tqdm=True)
    data = split_of(80, 0.1, 0)
    trainer = ErmTrainer(args=args, train_dataset=data, eval_dataset=split_of(40, 0.5, 1), data_args=data_args)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    opened, _, _ = load_classifier(str(tmp_path / "saved"), of_vectors=True)
    logits = opened(pixel_values=torch.tensor(data["embedding"][:])).logits
    torch.testing.assert_close(logits, torch.from_numpy(trainer.predict(data).predictions))
