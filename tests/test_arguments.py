"""Settings from YAML file and command line: who wins, what is refused and with which words."""

import dataclasses

import pytest
import yaml

from hf_biasensemble.arguments import (
    DataArguments,
    DebiasingArguments,
    ModelArguments,
    SelectionArguments,
    resolved,
)
from hf_biasensemble.arguments.parser import StrictParser
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.runs.run_arguments import parse_run

TYPES = [DataArguments, ModelArguments, SelectionArguments, DebiasingArguments]


@pytest.fixture
def parse(tmp_path):
    """Parses the text of a YAML file (or none) and command line words."""

    def parse(text: str | None = None, *words: str):
        argv = ["--dataset_name", "some/data", "--output_dir", str(tmp_path / "out")]
        if text is not None:
            file = tmp_path / "settings.yaml"
            file.write_text(text)
            argv += ["--config", str(file)]
        return parse_run([*argv, *words])

    return parse


@pytest.fixture
def error_of(parse):
    def error_of(text: str | None = None, *words: str) -> str:
        with pytest.raises(BiasEnsembleError) as caught:
            parse(text, *words)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return error_of


# Precedence and values -----------------------------------------------------------------------------------------------


def test_command_line_wins_over_file_and_file_over_default(parse):
    _, model, selection, training = parse("seed: 4\nmax_steps: 9\nimage_size: 32", "--seed", "5")
    assert training.seed == 5
    assert training.max_steps == 9 and model.image_size == 32
    assert selection.num_members == 5


def test_command_line_wins_wherever_the_file_is_named(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 4\ndataset_name: from/file\noutput_dir: from_file")
    data, *_, training = parse_run(["--seed", "5", f"--config={file}", "--dataset_name", "other"])
    assert (training.seed, data.dataset_name, training.output_dir) == (5, "other", "from_file")


@pytest.mark.parametrize("written, value", [("1e-4", 1e-4), ("0.01", 0.01), ("1.0e-3", 1e-3), ("3", 3.0)])
def test_numbers_in_any_notation(parse, written, value):
    assert parse(f"learning_rate: {written}")[3].learning_rate == value


@pytest.mark.parametrize("written, value", [("true", True), ("yes", True), ("False", False), ("off", False)])
def test_truth_values(parse, written, value):
    assert parse(f"horizontal_flip: {written}")[1].horizontal_flip is value
    assert parse(None, "--dataloader_drop_last", written.replace("off", "no"))[3].dataloader_drop_last is value


def test_flag_alone_means_true(parse):
    assert parse(None, "--horizontal_flip")[1].horizontal_flip is True


@pytest.mark.parametrize("written", ["[-0.5, -1e-3, 1]", "[-0.5, -0.001, 1.0]", "\n- -0.5\n- -1.0e-3\n- 1"])
def test_lists(parse, written):
    assert parse(f"image_mean: {written}")[1].image_mean == [-0.5, -0.001, 1.0]


def test_list_on_the_command_line(parse):
    model = parse(None, "--image_mean", "-0.5", "-1e-3", "1", "--image_size", "30")[1]
    assert model.image_mean == [-0.5, -0.001, 1.0] and model.image_size == 30


@pytest.mark.parametrize("written", ["{zero_init_last: false}", "'{\"zero_init_last\": false}'"])
def test_backbone_arguments(parse, written):
    assert parse(f"backbone_args: {written}\nbackbone: resnet18")[1].timm_arguments() == {"zero_init_last": False}


def test_null_means_the_default_where_that_is_nothing(parse):
    assert parse("bias_label_column: null\ndataset_config_name: ~")[0].bias_label_column is None


def test_missing_optional_values_have_the_published_defaults(parse):
    training = parse()[3]
    assert (training.max_grad_norm, training.lr_scheduler_type, training.dataloader_drop_last) == (0, "constant", True)


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, near", [("learning_rat", "learning_rate"), ("member_treshold", "member_threshold")])
def test_unknown_key_names_key_nearest_and_place(error_of, tmp_path, key, near):
    in_file = error_of(f"{key}: 1")
    assert f"unknown option {key} in {tmp_path / 'settings.yaml'}" in in_file and f"did you mean {near}?" in in_file
    on_line = error_of(None, f"--{key}", "1")
    assert f"unknown option --{key} in the command line" in on_line and f"did you mean {near}?" in on_line
    assert f"--{key} in" in error_of(None, f"--{key}=1")


def test_abbreviation_is_not_guessed(error_of):
    assert "unknown option --learning in the command line" in error_of(None, "--learning", "1")


@pytest.mark.parametrize("key", ["help", "h", "config", "3", "--seed"])
def test_keys_that_are_no_settings_are_unknown(error_of, key):
    assert f"unknown option {key} in" in error_of(f"{key}: x")


def test_stray_word_is_refused(error_of):
    assert "unknown option surplus" in error_of(None, "surplus")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("max_steps: many", "--max_steps: invalid int value: 'many'"),
        ("max_steps: 1.5", "--max_steps: invalid int value: '1.5'"),
        ("learning_rate: fast", "--learning_rate: invalid float value: 'fast'"),
        ("horizontal_flip: 3", "--horizontal_flip: Truthy value expected: got 3"),
        ("image_mean: [a, b, c]", "--image_mean: invalid float value: 'a'"),
    ],
)
def test_wrong_type_names_key_value_and_file(error_of, tmp_path, line, expected):
    message = error_of(line)
    assert message.startswith(f"{tmp_path / 'settings.yaml'}: {expected}")
    key, value = line.split(": ", 1)
    assert error_of(None, f"--{key}", *value.strip("[]").split(", ")).startswith(expected)


@pytest.mark.parametrize(
    "option, value, expected",
    [
        ("learning_rate", "0", "above 0"),
        ("learning_rate", "nan", "above 0"),
        ("learning_rate", "inf", "above 0"),
        ("weight_decay", "-0.1", "0 or more"),
        ("max_steps", "0", "at least 1"),
        ("seed", "-1", "0 or more"),
        ("per_device_train_batch_size", "0", "at least 1"),
        ("per_device_eval_batch_size", "0", "at least 1"),
        ("gradient_accumulation_steps", "0", "at least 1"),
        ("eval_steps", "0", "above 0"),
        ("save_steps", "0", "above 0"),
        ("logging_steps", "0", "above 0"),
        ("loss_average_decay", "1", "in [0, 1)"),
        ("generalized_cross_entropy_q", "0", "in (0, 1]"),
        ("method", "lfff", "one of auto, disent, disent_be, erm"),
        ("save_strategy", "best", "one of no, steps, epoch"),
        ("member_threshold", "1", "in [0, 1)"),
        ("member_agreement", "6", "in 1..5 (num_members)"),
        ("member_agreement", "0", "in 1..5 (num_members)"),
        ("member_steps", "0", "at least 1"),
        ("num_members", "0", "at least 1"),
        ("keep_member", "first", "one of last, best"),
        ("image_size", "0", "at least 1"),
        ("image_scale", "0", "above 0"),
        ("crop_padding", "-1", "0 or more"),
        ("backbone_args", "[1]", "a JSON object"),
        ("backbone_args", "{", "a JSON object"),
        ("pretrained", "true", "a backbone with weights"),
    ],
)
def test_value_out_of_range_names_option_expectation_and_value(error_of, option, value, expected):
    message = error_of(None, f"--{option}", value)
    assert message.startswith(f"--{option}: expected {expected}"), message
    assert ", found " in message


@pytest.mark.parametrize("values", ["[1, 2]", "[1, 2, 3, 4]", "0.5"])
def test_wrong_number_of_channels_is_refused(error_of, values):
    assert "--image_mean: expected three numbers" in error_of(f"image_mean: {values}")


@pytest.mark.parametrize("values", ["[1, 0, 1]", "[1, -1, 1]", "[1, .nan, 1]"])
def test_standard_deviation_must_be_above_zero(error_of, values):
    assert "--image_std: expected three numbers above 0" in error_of(f"image_std: {values}")


@pytest.mark.parametrize("option, value", [("eval_strategy", "sometimes"), ("lr_scheduler_type", "wavy")])
def test_what_training_arguments_refuse_is_an_error_of_one_line(error_of, option, value):
    assert value in error_of(None, f"--{option}", value)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("learning_rate:", "learning_rate: expected a value, found nothing"),
        ("image_mean: []", "image_mean: expected a value, found nothing"),
        ("report_to: null", "report_to: expected a value, found nothing"),
        ("seed: [1, 2]", "--seed: invalid int value: '[1, 2]'"),
    ],
)
def test_nothing_or_too_much_is_not_passed_over(error_of, tmp_path, line, expected):
    assert f"{tmp_path / 'settings.yaml'}: {expected}" in error_of(line)


@pytest.mark.parametrize("missing", ["dataset_name", "output_dir"])
def test_what_has_no_default_must_be_given(missing):
    given = {"dataset_name": "some/data", "output_dir": "out"}
    words = [word for name, value in given.items() if name != missing for word in (f"--{name}", value)]
    with pytest.raises(BiasEnsembleError, match=f"--{missing}: expected .*, found None"):
        parse_run(words)


# The file ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "", "3"])
def test_file_that_is_no_mapping_is_refused(error_of, tmp_path, text):
    assert f"--config {tmp_path / 'settings.yaml'}: expected lines `option: value`" in error_of(text)


def test_file_that_is_no_yaml_is_refused(error_of, tmp_path):
    assert f"--config {tmp_path / 'settings.yaml'} could not be read" in error_of("a: [1")


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_file_that_cannot_be_read_is_named(tmp_path, kind):
    file = tmp_path / "it"
    if kind == "folder":
        file.mkdir()
    elif kind == "binary":
        file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BiasEnsembleError) as caught:
        parse_run(["--config", str(file)])
    assert f"--config {file} could not be read" in str(caught.value)


# Resolved settings ---------------------------------------------------------------------------------------------------


def test_resolved_settings_given_back_are_the_same_settings(parse, tmp_path):
    parts = parse(
        "image_std: [0.5, 1.0e-5, 2]\nbackbone_args: {a: [1, 2], b: null}\nlr_scheduler_type: linear\nseed: 7\n"
        "warmup_steps: 3\nhorizontal_flip: true\nadam_beta1: 0.5\nreport_to: [tensorboard]\nbf16: true\n"
        "bias_label_column: colour\nlearning_rate: 1.0e-5\nbackbone: resnet18\ndataloader_drop_last: false\n"
        "use_cpu: true\nweight_decay: 1e-3"
    )
    settings = resolved(*parts)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    again = parse_run(["--config", str(file)])
    assert resolved(*again) == settings
    for before, after in zip(parts, again, strict=True):
        for name, value in settings.items():
            if hasattr(before, name):
                assert getattr(after, name) == getattr(before, name), f"{name}: {value}"
    assert resolved(*parse("report_to: none"))["report_to"] == ["none"]
    assert settings["seed"] == 7 and settings["adam_beta1"] == 0.5 and settings["bf16"] is True


def test_every_setting_of_the_library_and_the_seed_are_stated(parse):
    settings = resolved(*parse())
    for kind in TYPES:
        names = [field.name for field in dataclasses.fields(kind)]
        own = [name for name in names if kind is not DebiasingArguments or name in kind.__annotations__]
        assert set(own) <= settings.keys()
    assert settings["seed"] == 42


def test_every_option_has_help():
    parser = StrictParser(TYPES)
    bare = [action.dest for action in parser._actions if not (action.help or "").strip()]
    assert bare == []
    assert {"learning_rate", "member_threshold", "dataset_name", "crop_padding"} <= {a.dest for a in parser._actions}
    for kind in TYPES[:3]:
        for field in dataclasses.fields(kind):
            assert field.metadata["help"].endswith("."), field.name


# Data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"validation_share": 1.0}, "--validation_share: expected in"),
        ({"test_share": -0.1}, "--test_share: expected in"),
        ({"validation_share": 0.5, "test_share": 0.5}, "below 1 together"),
        ({"split_seed": -1}, "--split_seed: expected 0 or more"),
        ({"pixel_memory_limit": "much"}, "--pixel_memory_limit: expected bytes, such as 4GB"),
        ({"pixel_memory_limit": "4iB"}, "--pixel_memory_limit: expected bytes, such as 4GB"),
    ],
)
def test_data_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(BiasEnsembleError, match=message):
        DataArguments(dataset_name="x", **changes)
