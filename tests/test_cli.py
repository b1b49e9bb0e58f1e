"""The command line before anything runs: help, mistyped words, names of other scripts, dry runs; and progress."""

import re
import sys
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from runs import train, words

from hf_biasensemble import __version__
from hf_biasensemble.arguments import InferenceArguments
from hf_biasensemble.arguments.help import ALIASES, COMMON, OUR_WORDS
from hf_biasensemble.cli import main as cli
from hf_biasensemble.cli.main import COMMANDS, run_command
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.reporting.run.progress import NamedProgressCallback
from hf_biasensemble.runs.run_arguments import parse_run


def call(monkeypatch, *given: str) -> int:
    monkeypatch.setattr(sys, "argv", ["hf-biasensemble", *given])
    return cli.main()


def test_version(monkeypatch, capsys):
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"hf_biasensemble {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("check_data", "check-data"), ("swep", "sweep")])
def test_mistyped_command_gets_the_nearest_one(monkeypatch, capsys, typed, meant):
    assert call(monkeypatch, typed) == 2
    assert capsys.readouterr().err == f"error: unknown command {typed}; did you mean {meant}?\n"


@pytest.mark.parametrize("wasted", ["torch.empty(1 << 50)", "numpy.empty(1 << 50)"])
def test_want_of_memory_is_one_line_and_other_errors_are_not_hidden(digits, tmp_path, monkeypatch, capsys, wasted):
    monkeypatch.setattr(METHODS, "_found", dict(METHODS._found))
    text = "import numpy, torch\nfrom hf_biasensemble import ErmTrainer, Method, classifier_alone\n"
    text += "class Trainer(ErmTrainer):\n    def training_terms(self, model, batch):\n        return {statement}\n"
    for name, statement in (("wasteful", wasted), ("wrong", "torch.ones(2) @ torch.ones(3)")):
        own = text.format(statement=statement) + f"METHOD = Method({name!r}, 'Own', Trainer, classifier_alone)\n"
        (tmp_path / f"{name}.py").write_text(own)
        METHODS.load_file(str(tmp_path / f"{name}.py"))
    assert train(digits, tmp_path / "out", "wasteful") == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said.startswith("error: out of memory (") and "lower --per_device_train_batch_size" in said
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        train(digits, tmp_path / "other", "wrong")


def test_unlike_any_command_lists_all(monkeypatch, capsys):
    assert call(monkeypatch, "zzz") == 2
    error = capsys.readouterr().err
    assert all(name in error for name in COMMANDS)


def test_help_has_every_command_once(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    listed = re.findall(r"^  ([a-z-]+)  ", capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_help_keeps_the_paragraphs_of_a_description(capsys):
    with pytest.raises(SystemExit):
        run_command("sweep", ["--help"])
    usage, summary, example, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith("usage: hf-biasensemble sweep --methods METHOD")
    assert summary.startswith("Compare methods") and example.startswith("hf-biasensemble sweep --config")


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"make-dataset"}))  # has a parser for each benchmark
def test_help_of_a_command_names_it_and_has_each_option_once(command, capsys):
    with pytest.raises(SystemExit) as done:
        run_command(command.replace("-", "_"), ["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: hf-biasensemble {command} ")
    options = re.findall(r"^  (?:-h, )?(--[\w-]+)", text, re.MULTILINE)
    assert options and len(options) == len(set(options))
    assert "default: None" not in text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "learning_rate"),
        ("epochs", "num_train_epochs"),
        ("model_name_or_path", "backbone"),
        ("batch_size", "per_device_train_batch_size"),
        ("data_dir", "dataset_name"),
        ("learning_rat", "learning_rate"),
    ],
)
def test_usual_name_gets_the_option_that_is_meant(typed, meant):
    with pytest.raises(BiasEnsembleError, match=f"unknown option --{typed} .*did you mean {meant}[?]"):
        parse_run([f"--{typed}", "1", "--dataset_name", "x", "--output_dir", "y"])


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("audit", "--top_k", "num_images"),
        ("test", "--dataset", "dataset_name or reference_dataset"),
        ("import-reference", "--dataset", "reference_dataset"),
        ("import-reference", "--checkpoint_dir", "reference_checkpoint"),
        ("judge", "--baseline", "compare_with"),
        ("judge", "--models", "model"),
        ("explain", "--model_name_or_path", "model"),
        ("test", "--per_device_eval_batch_size", "batch_size"),
        ("predict", "--eval_batch_size", "batch_size"),
        ("push", "--privat", "private"),
        ("make-dataset", "--severity", "dataset_config_names"),
        ("make-dataset", "--push_to_hub", "hub_dataset_id"),
    ],
)
def test_name_of_another_command_and_earlier_name_get_the_one_of_this_command(command, typed, meant, capsys):
    given = {"predict": ["--model", "a", "b.png"], "push": ["a", "b"], "make-dataset": ["bffhq", "--output_dir", "a"]}
    assert run_command(command.replace("-", "_"), [*given.get(command, []), typed, "1"]) == 2
    assert capsys.readouterr().err.endswith(
        f"error: unknown option {typed} in the command line; did you mean {meant}?\n"
    )


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("judge", ["outputs/erm"], "expected models after --model and --compare_with, found outputs/erm"),
        ("judge", ["--members", "run"], "--model: expected folders or Hub ids of saved classifiers, found nothing"),
        ("judge", ["--model", "a", "--compare_with", "a"], "--compare_with: expected another model than --model"),
        ("predict", ["outputs/mine", "photo.jpg"], "the following arguments are required: --model"),
        ("export-onnx", ["out", "model.onnx"], "the following arguments are required: --model, --output_file"),
        ("sweep", ["--method", "erm"], "use --methods"),
        ("sweep", ["--seed=1"], "use --seeds"),
        ("sweep", ["--selection_dir", "x"], "leave it out"),
    ],
)
def test_a_model_has_one_option_everywhere_and_a_sweep_names_its_own(command, given, said, capsys):
    more = ["--methods", "erm", "--output_dir", "out"] if command == "sweep" else []
    more = ["--dataset_name", "data"] if command == "judge" else more
    assert run_command(command.replace("-", "_"), [*given, *more]) == 2
    assert said in capsys.readouterr().err


def test_options_of_the_example_scripts_that_mean_the_same_are_accepted():
    given = ["--train_dir", "photos", "--image_column_name=picture", "--label-column-name", "kind"]
    data, *_ = parse_run([*given, "--train_val_split", "0.2", "--output_dir", "out"])
    assert (data.dataset_name, data.image_column, data.label_column) == ("photos", "picture", "kind")
    assert data.validation_share == 0.2


def test_dry_run_says_what_would_run_and_writes_nothing(digits, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(digits, out, "lff_be", dry_run="true", eval_strategy="no") == 0
    text = capsys.readouterr().out
    assert re.search(r"^method +lff_be ", text, re.MULTILINE)
    assert re.search(r"^  train +96 images, 4 classes, \d+ bias-conflicting$", text, re.MULTILINE)
    assert re.search(r"^  validation +\d+ images", text, re.MULTILINE)
    assert "12 steps of 16 images (2.0 epochs), evaluated at the end" in text and "3 members, 30 steps each" in text
    assert not out.exists()


def test_dry_run_counts_steps_of_epochs(digits, tmp_path, capsys):
    given = words(digits, tmp_path / "out")
    place = given.index("--max_steps")
    assert run_command("train", [*given[:place], *given[place + 2 :], "--num_train_epochs", "3", "--dry_run"]) == 0
    assert "18 steps of 16 images (3.0 epochs)" in capsys.readouterr().out


def test_dry_run_refuses_to_resume_another_run(digits, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(digits, out) == 0
    before = sorted(path.stat().st_mtime_ns for path in out.rglob("*"))
    changes = {"resume_from_checkpoint": "true", "learning_rate": 0.5, "dry_run": "true"}
    assert train(digits, out, **changes) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert sorted(path.stat().st_mtime_ns for path in out.rglob("*")) == before


def test_dry_run_refuses_what_the_run_would_refuse(digits, tmp_path, capsys):
    assert run_command("train", [*words(digits, tmp_path / "out"), "--dry_run", "--label_column", "zzz"]) == 2
    assert "zzz" in capsys.readouterr().err


def test_without_a_terminal_progress_is_a_row_per_evaluation(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "lff_be", disable_tqdm="false") == 0
    said = capsys.readouterr()
    assert "it/s]" not in said.err and "Writing model shards" not in said.err  # no bar of a library
    lines = said.out.splitlines()
    header = max(number for number, line in enumerate(lines) if line.split()[:1] == ["step"])
    headings = lines[header].split()
    assert headings[:3] == ["step", "lr", "loss"] and "conflict." in headings
    rows = [line.split() for line in lines[header + 1 :] if re.fullmatch(r"[\d. e+-]+", line)]
    assert [row[0] for row in rows] == ["4", "8", "12"]
    assert all(len(row) == len(headings) for row in rows)
    assert float(rows[0][1]) == 0.003
    assert all(len(line) <= 130 for line in lines[header:] if re.fullmatch(r"[\d. e+-]+", line))


def test_without_a_terminal_members_report_their_losses_and_the_flagged_images(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "lff_be", disable_tqdm="false", logging_steps=1) == 0
    members, flagged, _ = re.split(
        r"^(BiasEnsemble members: .*)\n",
        capsys.readouterr().out.partition("BiasEnsemble members\n")[2],
        flags=re.MULTILINE,
    )
    rows = re.findall(r"^ +(\d+) +\S+ +[\d.]+ ", members, re.MULTILINE)
    assert rows == [str(step) for step in range(3, 31, 3)]
    selected = pq.read_table(tmp_path / "out" / "selection" / "selection.parquet")["is_selected"].to_pylist()
    assert flagged == f"BiasEnsemble members: {selected.count(False)} of 96 training images flagged"


def test_new_estimates_find_their_column(capsys):
    progress = NamedProgressCallback("Training x")
    state = SimpleNamespace(is_world_process_zero=True, global_step=7)
    metrics = {"validation_accuracy": 0.5, "validation_estimated_conflicting_accuracy": 0.25, "raw_test_accuracy": 0.1}
    progress.on_evaluate(None, state, None, metrics)
    assert [line.split() for line in capsys.readouterr().out.splitlines()][1:] == [
        ["validation"],
        ["step", "accuracy", "est.confl."],
        ["7", "0.500", "0.250"],
    ]


def test_progress_is_named_once_and_members_by_their_number(capsys):
    progress = NamedProgressCallback("Members")
    state = SimpleNamespace(is_world_process_zero=True, global_step=1)
    accuracy = {"validation_accuracy_member_0": 0.1, "validation_accuracy_member_1": 0.2}
    progress.on_evaluate(None, state, None, accuracy)
    state.global_step = 51
    losses = {"loss": 3.0, "loss_member_0": 1.0, "loss_member_1": 2.0}
    progress.on_log(None, state, None, {"learning_rate": 0.01, **losses})
    progress.on_evaluate(None, state, None, accuracy)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert [line.split() for line in lines] == [
        ["Members"],
        ["validation"],
        ["step", "member_0", "member_1"],
        ["1", "0.100", "0.200"],
        ["losses", "validation"],
        ["step", "lr", "loss", "member_0", "member_1", "member_0", "member_1"],
        ["51", "0.01", "3.000", "1.000", "2.000", "0.100", "0.200"],
    ]


def test_the_only_term_of_a_loss_is_not_shown_beside_it(capsys):
    progress = NamedProgressCallback("Training erm")
    state = SimpleNamespace(is_world_process_zero=True, global_step=7)
    progress.on_log(None, state, None, {"loss": 0.3, "loss_classification": 0.3, "learning_rate": 0.01})
    progress.on_evaluate(None, state, None, {"test_accuracy": 0.5})
    assert capsys.readouterr().out.splitlines()[2].split() == ["step", "lr", "loss", "accuracy"]


# Help ----------------------------------------------------------------------------------------------------------------


def options_in_help(command: str, word: str, capsys) -> set[str]:
    with pytest.raises(SystemExit):
        run_command(command, [word])
    return set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))


def test_help_shows_the_common_options_and_help_all_every_one(capsys):
    some, every = (options_in_help("train", word, capsys) for word in ("--help", "--help-all"))
    assert len(some) <= 31 and some < every and len(every) > 120
    assert {"dataset_name", "backbone", "method", "max_steps", "seed", "loss_average_decay", "dry_run"} <= some
    assert {"verify_pixels", "adam_beta1"} <= every - some


@pytest.mark.parametrize("command", ["audit", "check-data", "explain", "judge", "test"])
def test_help_of_other_commands_shows_all_of_their_own_options(command, capsys):
    some, every = (options_in_help(command, word, capsys) for word in ("--help", "--help-all"))
    shared = options_in_help("train", "--help-all", capsys) | {"batch_size"}
    assert some < every and every - some <= shared


def test_common_options_are_options():
    data_args, model_args, selection_args, args = parse_run(["--dataset_name", "x", "--output_dir", "y"])
    inference = InferenceArguments()
    known = {name for part in (data_args, model_args, selection_args, args, inference) for name in vars(part)}
    assert COMMON <= known and OUR_WORDS.keys() <= known and ALIASES.keys() <= known
