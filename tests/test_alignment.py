"""Which images are bias-conflicting: by a column, as told, by equal names, by the majority; never by numbers."""

from pathlib import Path

import pytest
import yaml
from datasets import ClassLabel, Value
from loaded import load_splits
from runs import error_line, train
from test_loading import data_set

from hf_biasensemble.arguments import DataArguments, parse_arguments
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.internal.errors import BiasEnsembleError

NUMBERS = {"label": Value("int64"), "bias_label": Value("int64")}
TEXT = {"label": Value("string"), "bias_label": Value("string")}
# As in CelebA: blond 0 or 1, male 0 or 1, and nine blond people of ten are female.
CELEBRITIES = {"label": [1] * 10 + [0] * 10, "bias_label": [0] * 9 + [1] + [1] * 9 + [0]}
NAMES = {"label": [0, 1], "bias_label": [1, 0]}
FEW_CONFLICTING = ([False] * 9 + [True]) * 2


def named(columns: dict[str, list[int]]) -> dict[str, list[str]]:
    """The same with names: dark and blond, female and male."""
    words = {"label": ("dark", "blond"), "bias_label": ("female", "male")}
    return {column: [words[column][value] for value in values] for column, values in columns.items()}


def said(capsys: pytest.CaptureFixture) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if "aligned" in line]


def error_of(name: str, *pairs: str) -> str:
    with pytest.raises(BiasEnsembleError) as caught:
        load_splits(name, aligned_bias=list(pairs))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# By a column ---------------------------------------------------------------------------------------------------------


def test_a_column_that_says_it_comes_first(tmp_path, capsys):
    content = {"label": [0, 0, 1], "bias_label": [0, 1, 0], "is_conflicting": [True, False, False]}
    name = data_set(tmp_path, {"train": content}, **NUMBERS, is_conflicting=Value("bool"))
    split = load_splits(name)["train"]
    assert split.is_conflicting.tolist() == [True, False, False]
    assert (split.aligned_by, split.aligned_bias) == ("column", None)
    assert said(capsys) == []
    assert "found a column that says which" in error_of(name, "0=0", "1=1")


# By the majority -----------------------------------------------------------------------------------------------------


def test_numbers_go_by_the_majority_of_each_class_and_not_by_being_equal(tmp_path, capsys):
    split = load_splits(data_set(tmp_path, {"train": CELEBRITIES}, **NUMBERS))["train"]
    assert split.is_conflicting.tolist() == FEW_CONFLICTING
    assert (split.aligned_by, split.aligned_bias) == ("majority", ["1=0", "0=1"])
    (line,) = said(capsys)
    assert line == "bias-aligned, by the majority of each class in train: 0: 1, 1: 0; say it with --aligned_bias"


def test_other_names_than_those_of_the_classes_go_by_the_majority(tmp_path, capsys):
    split = load_splits(data_set(tmp_path, {"train": named(CELEBRITIES)}, **TEXT))["train"]
    assert split.is_conflicting.tolist() == FEW_CONFLICTING
    assert split.aligned_bias == ["female=blond", "male=dark"]
    assert "blond: female, dark: male; say it with --aligned_bias" in said(capsys)[0]


def test_the_majority_of_train_holds_in_every_split(tmp_path):
    test = {"label": [1, 1, 1, 0], "bias_label": [1, 1, 0, 1]}  # where most blond people are male
    splits = load_splits(data_set(tmp_path, {"train": CELEBRITIES, "test": test}, **NUMBERS))
    assert splits["test"].is_conflicting.tolist() == [True, True, False, False]
    assert splits["test"].aligned_by == "majority"


def test_there_may_be_more_biases_than_classes(tmp_path):
    content = {"label": [0, 0, 0, 1, 1, 1], "bias_label": [2, 2, 0, 1, 1, 2]}
    split = load_splits(data_set(tmp_path, {"train": content}, **NUMBERS))["train"]
    assert split.is_conflicting.tolist() == [False, False, True, False, False, True]


@pytest.mark.parametrize("bias_labels", [[0, 1, 1, 0], [0, 0, 1, 2]])
def test_a_class_without_majority_leaves_it_unknown(tmp_path, capsys, bias_labels):
    content = {"label": [0, 0, 1, 1], "bias_label": bias_labels}
    split = load_splits(data_set(tmp_path, {"train": content}, **NUMBERS))["train"]
    assert split.bias_labels.tolist() == bias_labels
    assert split.is_conflicting is None and split.aligned_by is None
    (line,) = said(capsys)
    assert "class 0 has as many images of 0, 1" in line or "class 1 has as many images of 1, 2" in line
    assert "--aligned_bias" in line


def test_without_a_training_split_it_stays_unknown(tmp_path, capsys):
    split = load_splits(data_set(tmp_path, {"test": CELEBRITIES}, **NUMBERS))["test"]
    assert split.bias_labels is not None and split.is_conflicting is None
    assert said(capsys) == []
    split = load_splits(data_set(tmp_path, {"test": CELEBRITIES}, **NUMBERS), aligned_bias=["0=1", "1=0"])["test"]
    assert split.is_conflicting.tolist() == FEW_CONFLICTING


def test_the_line_names_ten_classes_at_most(tmp_path, capsys):
    content = {"label": list(range(12)), "bias_label": list(range(12))}
    load_splits(data_set(tmp_path, {"train": content}, **NUMBERS))
    assert "9: 9 and 2 more;" in said(capsys)[0]


# By equal names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "ClassLabel", "ClassLabel in another order", "both"])
def test_equal_names_go_together_whatever_the_majority(tmp_path, capsys, kind):
    label, bias = ["owl", "owl", "owl", "ant"], ["ant", "ant", "owl", "owl"]
    features = dict(TEXT)
    if kind.startswith("ClassLabel"):
        orders = ["ant", "owl"], ["owl", "ant"] if kind.endswith("order") else ["ant", "owl"]
        features = {"label": ClassLabel(names=orders[0]), "bias_label": ClassLabel(names=orders[1])}
        label, bias = (
            [names.index(name) for name in column] for names, column in zip(orders, (label, bias), strict=True)
        )
    elif kind == "both":
        features["bias_label"] = ClassLabel(names=["ant", "owl"])
        bias = [["ant", "owl"].index(name) for name in bias]
    content = {"train": {"label": label, "bias_label": bias}}
    split = load_splits(data_set(tmp_path, content, **features))["train"]
    assert split.is_conflicting.tolist() == [True, True, False, True]
    assert split.aligned_by == "names" and sorted(split.aligned_bias) == ["ant=ant", "owl=owl"]
    assert said(capsys) == []


def test_bias_names_are_counted_over_all_splits(tmp_path):
    """A small split may lack a bias; that must not renumber the others or lose the conflict."""
    content = {
        "train": {"label": ["a", "b", "c"], "bias_label": ["a", "b", "c"]},
        "test": {"label": ["a", "b", "c"], "bias_label": ["b", "c", "c"]},
    }
    split = load_splits(data_set(tmp_path, content, **TEXT))["test"]
    assert split.bias_labels.tolist() == [1, 2, 2]
    assert split.is_conflicting.tolist() == [True, True, False]


@pytest.mark.parametrize("names", [["0", "1"], ["no", "yes"], ["False", "True"]])
def test_answers_and_numbers_are_not_names(tmp_path, names):
    """Not blond goes with male here, though both columns say yes and no."""
    features = {"label": ClassLabel(names=names), "bias_label": ClassLabel(names=names)}
    split = load_splits(data_set(tmp_path, {"train": CELEBRITIES}, **features))["train"]
    assert split.is_conflicting.tolist() == FEW_CONFLICTING
    assert split.aligned_by == "majority"


# As told -------------------------------------------------------------------------------------------------------------


def test_what_was_told_comes_before_names_and_majority(tmp_path, capsys):
    name = data_set(tmp_path, {"train": named(CELEBRITIES)}, **TEXT)
    split = load_splits(name, aligned_bias=["male=blond", "female=dark", "male=dark"])["train"]
    assert split.is_conflicting.tolist() == [True] * 9 + [False] * 11
    assert (split.aligned_by, split.aligned_bias) == ("option", ["male=blond", "female=dark", "male=dark"])
    assert said(capsys) == []


def test_names_may_hold_the_sign(tmp_path):
    content = {"label": ["x=1", "x=2"], "bias_label": ["y=1", "y=2"]}
    split = load_splits(data_set(tmp_path, {"train": content}, **TEXT), aligned_bias=["y=1=x=2", "y=2=x=1"])["train"]
    assert split.is_conflicting.tolist() == [True, True]


@pytest.mark.parametrize(
    "pairs, words",
    [
        (["female=blonde", "male=dark"], ["the class blonde in female=blonde", "out of blond, dark"]),
        (["woman=blond", "male=dark"], ["the bias woman in woman=blond", "out of female, male"]),
        (["blond=female"], ["the bias blond in blond=female"]),
        (["female:blond"], ["female:blond without ="]),
        (["female=blond"], ["found none for dark", "BIAS=dark"]),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_the_names_there_are(tmp_path, pairs, words):
    message = error_of(data_set(tmp_path, {"train": named(CELEBRITIES)}, **TEXT), *pairs)
    assert message.startswith("--aligned_bias: expected ")
    assert [word for word in words if word not in message] == []


def test_data_without_bias_labels_refuse_it(tmp_path):
    message = error_of(data_set(tmp_path, {"train": {"label": ["a", "b"]}}, label=Value("string")), "a=a", "b=b")
    assert "found no bias labels" in message and "--bias_label_column" in message


def test_the_option_from_yaml_and_command_line(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("dataset_name: x\naligned_bias: [female=blond, male=dark]\n")
    (from_file,) = parse_arguments([DataArguments], ["--config", str(file)])
    (typed,) = parse_arguments([DataArguments], ["--dataset_name", "x", "--aligned_bias", "female=blond", "male=dark"])
    assert from_file.aligned_bias == typed.aligned_bias == ["female=blond", "male=dark"]
    (neither,) = parse_arguments([DataArguments], ["--dataset_name", "x"])
    assert neither.aligned_bias is None
    with pytest.raises(BiasEnsembleError, match="--aligned_bias: expected it without --conflicting_column"):
        parse_arguments([DataArguments], ["--dataset_name", "x", "--aligned_bias", "a=b", "--conflicting_column", "c"])


# Whole runs ----------------------------------------------------------------------------------------------------------


def people(folder: Path) -> Path:
    """Twenty training images and as many test images, one in ten conflicting."""
    data_set(folder, {"train": named(CELEBRITIES), "test": named(CELEBRITIES)}, **TEXT)
    return folder


def test_decoded_splits_and_those_cut_out_keep_it(tmp_path):
    splits = load_image_splits(DataArguments(dataset_name=str(people(tmp_path))), 4)
    assert [split.aligned_by for split in splits.values()] == ["majority"] * 3
    assert splits["validation"].aligned_bias == ["female=blond", "male=dark"]
    assert splits["validation"].measured_by()["is_conflicting"] is not None


def test_config_states_the_majority_and_runs_and_resumes_with_it(tmp_path, capsys):
    data, out = people(tmp_path / "data"), tmp_path / "out"
    options = {"max_steps": 4, "save_steps": 2}
    assert train(data, out, "erm", **options) == 0, capsys.readouterr().err
    assert len(said(capsys)) >= 1
    config = out / "config.yaml"
    assert yaml.safe_load(config.read_text())["aligned_bias"] == ["female=blond", "male=dark"]
    assert train(data, out, "erm", **options, resume_from_checkpoint="true") == 0, capsys.readouterr().err
    capsys.readouterr()
    again = tmp_path / "again"
    assert train(data, again, "erm", config=config, **options) == 0, capsys.readouterr().err
    assert not [line for line in said(capsys) if "majority" in line]  # the file says it
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    swapped = ["female=dark", "male=blond"]
    assert train(data, out, "erm", **options, aligned_bias=swapped, resume_from_checkpoint="true") == 2
    assert "aligned_bias (then: ['female=blond', 'male=dark'], now: ['female=dark'" in error_line(capsys)


def test_training_does_not_depend_on_it(tmp_path, capsys):
    data, weights = people(tmp_path / "data"), []
    for number, pairs in enumerate((["female=blond", "male=dark"], ["female=dark", "male=blond"])):
        out = tmp_path / str(number)
        assert train(data, out, "lff", max_steps=4, aligned_bias=pairs) == 0, capsys.readouterr().err
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
