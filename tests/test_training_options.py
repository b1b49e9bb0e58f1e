"""Options of `TrainingArguments`: each works or is refused, and none is passed over."""

import dataclasses
import json

import pytest
import yaml
from runs import SETTINGS, results, train, words
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_biasensemble import run
from hf_biasensemble.arguments import DebiasingArguments, resolved
from hf_biasensemble.arguments.unsupported import UNSUPPORTED
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.runs.run_arguments import parse_run

# A field that is new in transformers is in neither list: try what it does here, then enter it in one of them.
SUPPORTED = {
    *("output_dir", "per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs", "max_steps"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "gradient_accumulation_steps", "max_grad_norm"),
    *("bf16", "fp16", "tf32", "torch_compile", "torch_compile_backend", "torch_compile_mode"),
    *("torch_empty_cache_steps", "full_determinism", "seed", "use_cpu", "local_rank"),
    *("logging_strategy", "logging_steps", "logging_first_step", "log_level", "log_level_replica"),
    *("log_on_each_node", "disable_tqdm", "report_to", "run_name", "project"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "do_train", "do_eval"),
    *("save_strategy", "save_steps", "save_total_limit", "resume_from_checkpoint"),
    "restore_callback_states_from_checkpoint",
    *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id"),
    *("dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_backend", "ddp_timeout"),
}
# What config.yaml need not state: it changes no number of a run, only where and how fast it runs, what is said of it
# meanwhile and where it is sent.
OF_NO_CONSEQUENCE = {
    *("local_rank", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"),
    *("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers"),
    *("dataloader_multiprocessing_context", "torch_empty_cache_steps"),
    *("disable_tqdm", "log_level", "log_level_replica", "log_on_each_node", "logging_strategy", "logging_first_step"),
    *("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id"),
    *("resume_from_checkpoint", "restore_callback_states_from_checkpoint"),
    *("do_train", "do_eval"),  # of scripts; evaluation follows eval_strategy
}
# Not the default; others are true, or the opposite of the default.
VALUES = {
    "optim": "sgd",
    "optim_args": "a=1",
    "optim_target_modules": "all",
    "label_smoothing_factor": 0.1,
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "debug": "underflow_overflow",
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "metric_for_best_model": "loss",
    "hub_strategy": "checkpoint",
    "hub_revision": "dev",
    "data_seed": 3,
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "size",
    "label_names": ["digit"],
    "accelerator_config": {"split_batches": True},
    "parallelism_config": {"tp_size": 2},
    "fsdp": "full_shard",
    "fsdp_config": {"min_num_params": 1},
    "deepspeed": "zero.json",
}


def refusal(*words: str) -> str:
    with pytest.raises(BiasEnsembleError) as caught:
        parse_run(["--dataset_name", "some/data", "--output_dir", "out", *words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_option_of_transformers_is_supported_or_refused():
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert names - SUPPORTED - UNSUPPORTED.keys() == set()
    assert SUPPORTED & UNSUPPORTED.keys() == set()
    assert SUPPORTED | UNSUPPORTED.keys() == names


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_would_be_ignored_is_refused_with_the_reason(name):
    default = next(field.default for field in dataclasses.fields(DebiasingArguments) if field.name == name)
    value = VALUES.get(name, default is not True)
    with pytest.raises(BiasEnsembleError) as caught:
        DebiasingArguments(output_dir="out", **{name: value})
    assert str(caught.value) == f"--{name} {value} is not supported: {UNSUPPORTED[name]}; leave it out"


@pytest.mark.parametrize("name", ["optim", "label_smoothing_factor", "fsdp", "deepspeed", "train_sampling_strategy"])
def test_command_line_is_refused_in_the_same_words(name):
    assert refusal(f"--{name}", str(VALUES[name])).startswith(f"--{name} {VALUES[name]} is not supported: ")


def test_what_is_refused_is_not_offered(capsys):
    with pytest.raises(SystemExit):
        parse_run(["--help-all"])
    text = capsys.readouterr().out
    assert "--weight_decay" in text and "--optim " not in text and "--fsdp" not in text


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--lr_scheduler_type", "reduce_lr_on_plateau"], "one that depends on steps and not on a metric"),
        (["--lr_scheduler_type", "greedy"], "one that depends on steps and not on a metric"),
        (["--warmup_steps", "10"], "one with warmup, such as constant_with_warmup"),
        (["--lr_scheduler_kwargs", '{"num_cycles": 2}'], "one that takes --lr_scheduler_kwargs"),
        (["--step_decay_steps", "10", "--lr_scheduler_type", "linear"], "constant with --step_decay_steps"),
    ],
)
def test_schedule_that_would_ignore_another_option_is_refused(words, expected):
    assert f"--lr_scheduler_type: expected {expected}" in refusal(*words)


WORKS_AS_WELL = {"train_sampling_strategy": "sequential"}  # of what is refused, the one value that is not


@pytest.mark.parametrize("name", sorted((SUPPORTED | WORKS_AS_WELL.keys()) - OF_NO_CONSEQUENCE))
def test_what_changes_a_run_is_stated(name):
    args = DebiasingArguments(output_dir="out", use_cpu=True)
    default = next(field.default for field in dataclasses.fields(args) if field.name == name)
    value = WORKS_AS_WELL.get(name, not default if isinstance(default, bool) else 7)
    setattr(args, name, value)  # some can only be asked for where there is a GPU
    assert resolved(args)[name] == value


def test_no_token_is_stated():
    assert "secret" not in str(resolved(DebiasingArguments(output_dir="out", use_cpu=True, hub_token="secret")))


def test_evaluations_may_begin_elsewhere_when_a_run_is_resumed(digits, tmp_path):
    assert train(digits, tmp_path / "out") == 0
    changes = {"resume_from_checkpoint": "true", "eval_delay": 4, "eval_on_start": "true", "max_steps": 14}
    assert train(digits, tmp_path / "out", **changes) == 0
    assert results(tmp_path / "out")["published_step"] == 14


def test_replaced_settings_are_as_good_as_new_ones():
    args = DebiasingArguments(output_dir="out", use_cpu=True)
    assert dataclasses.replace(args, seed=5).seed == 5
    with pytest.raises(BiasEnsembleError, match="--label_names"):
        dataclasses.replace(args, label_names=["digit"])


# Epochs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "epochs, changes, steps",
    [
        (2, {}, 12),  # 96 images in batches of 16
        (0.5, {}, 3),
        (2, {"per_device_train_batch_size": 20}, 8),  # the last 16 images of each epoch are left out
        (2, {"per_device_train_batch_size": 20, "dataloader_drop_last": "false"}, 10),
        (1, {"per_device_train_batch_size": 20, "gradient_accumulation_steps": 3}, 2),
        (3, {"per_device_train_batch_size": 200}, 3),
    ],
)
def test_epochs_are_trained(digits, tmp_path, monkeypatch, epochs, changes, steps):
    monkeypatch.delitem(SETTINGS, "max_steps")
    assert train(digits, tmp_path / "out", num_train_epochs=epochs, eval_strategy="no", **changes) == 0
    assert results(tmp_path / "out")["published_step"] == steps


def both(tmp_path, in_file: str, *words: str) -> DebiasingArguments:
    file = tmp_path / "settings.yaml"
    file.write_text(in_file)
    return parse_run(["--dataset_name", "x", "--output_dir", "out", "--config", str(file), *words])[3]


def test_command_line_chooses_between_epochs_and_steps(tmp_path):
    args = both(tmp_path, "max_steps: 9\nschedule_steps: 9", "--num_train_epochs", "3")
    assert (args.num_train_epochs, args.max_steps, args.schedule_steps) == (3, -1, None)
    args = both(tmp_path, "num_train_epochs: 3\nmax_steps: -1\nschedule_steps: 9", "--max_steps", "7")
    assert (args.num_train_epochs, args.max_steps, args.schedule_steps) == (0, 7, None)


def test_what_asks_for_neither_leaves_the_file_as_it_is(tmp_path):
    """The 9 steps of a file do not become the default number of steps."""
    assert both(tmp_path, "max_steps: 9", "--num_train_epochs=0").max_steps == 9
    assert both(tmp_path, "num_train_epochs: 3", "--max_steps=-1").num_train_epochs == 3


def test_neither_is_the_published_number_of_steps():
    args = DebiasingArguments(output_dir="out", use_cpu=True)
    assert (args.num_train_epochs, args.max_steps) == (0, 50_000)
    args = DebiasingArguments(output_dir="out", use_cpu=True, num_train_epochs=3)
    assert (args.num_train_epochs, args.max_steps) == (3, -1)


@pytest.mark.parametrize(
    "words",
    [
        ("--num_train_epochs", "3", "--max_steps", "9"),
        ("--num_train_epochs", "3", "--max_steps", "50000"),  # as many as by default
        ("--num_train_epochs", "-1"),
        ("--num_train_epochs", "nan"),
    ],
)
def test_epochs_beside_steps_or_none_are_refused(words):
    assert refusal(*words).startswith("--num_train_epochs: expected")


def test_epochs_beside_steps_are_refused_in_a_file_and_in_code(tmp_path):
    with pytest.raises(BiasEnsembleError, match=r"--num_train_epochs: expected it or --max_steps, found both \(3 and"):
        both(tmp_path, "num_train_epochs: 3\nmax_steps: 50000")
    with pytest.raises(BiasEnsembleError, match="found both"):
        DebiasingArguments(output_dir="out", num_train_epochs=3, max_steps=50_000)


# Schedules of resumed runs -------------------------------------------------------------------------------------------


def test_shares_count_from_the_steps_that_the_run_began_with(digits, tmp_path):
    """The swap of DisEnt has started at step 4 of 12 when the run goes on to step 72: it never stops."""
    folder = tmp_path / "out"
    changes = {"swap_start_step": 0.25, "logging_steps": 1, "eval_strategy": "no"}
    assert train(digits, folder, "disent", **changes) == 0
    again = {**changes, "resume_from_checkpoint": "true"}
    assert train(digits, folder, "disent", **again, max_steps=72) == 0
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    swapped = [entry["step"] for entry in log if "loss_swapped_biased" in entry]
    assert swapped == list(range(5, 73))
    assert train(digits, folder, "disent", **again, max_steps=73) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["schedule_steps"] == 12


def test_learning_rate_that_has_reached_its_end_is_not_gone_on_with(digits, tmp_path, capsys):
    folder = tmp_path / "out"
    assert train(digits, folder, lr_scheduler_type="linear") == 0
    assert train(digits, folder, lr_scheduler_type="linear", max_steps=24, resume_from_checkpoint="true") == 2
    assert "--max_steps: expected at most 12, where --lr_scheduler_type linear ends" in capsys.readouterr().err


# Callbacks -----------------------------------------------------------------------------------------------------------


class StopAfterTwoEvaluations(TrainerCallback):
    seen = 0

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.seen += "validation_accuracy" in metrics
        control.should_training_stop = self.seen == 2


def test_early_stopping_of_transformers_is_refused_with_what_to_do_instead(digits, tmp_path):
    data_args, model_args, selection_args, args = parse_run(words(digits, tmp_path / "out"))
    with pytest.raises(BiasEnsembleError, match="expected no EarlyStoppingCallback.*--checkpoint_choice publishes"):
        run(data_args, model_args, selection_args, args, [EarlyStoppingCallback()])


def test_a_callback_ends_training_early_and_the_best_step_is_published(digits, tmp_path):
    given = words(digits, tmp_path / "out", checkpoint_choice="validation_accuracy", eval_steps=4)
    found = run(*parse_run(given), [StopAfterTwoEvaluations()])
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert log["global_step"] == 8 and found["published_step"] in (4, 8)
