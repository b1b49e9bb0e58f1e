"""Options of transformers and `accelerate launch` that would be ignored here, or not do what they promise."""

import dataclasses
import os
from typing import Any

from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from hf_biasensemble.internal.errors import BiasEnsembleError, require

_REASONS = {
    "the optimiser is Adam, with --learning_rate, --weight_decay, --adam_beta1, --adam_beta2 and --adam_epsilon": (
        "optim optim_args optim_target_modules"
    ),
    "per-sample losses decide what is bias-aligned, and are those of the paper": "label_smoothing_factor",
    "it is for language models": (
        "average_tokens_across_devices include_num_input_tokens_seen use_cache use_liger_kernel liger_kernel_config "
        "neftune_noise_alpha"
    ),
    "evaluation has the precision of training; see --bf16 and --fp16": "bf16_full_eval fp16_full_eval",
    "the networks do not support it; lower --per_device_train_batch_size and raise --gradient_accumulation_steps": (
        "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs"
    ),
    "results depend on the batch size; set --per_device_train_batch_size": "auto_find_batch_size",
    "a loss that is not finite ends the run with an error that names the step": "logging_nan_inf_filter debug",
    "results contain no memory metrics": "skip_memory_metrics",
    "evaluation has no data loader: it classifies whole splits": (
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
        "include_for_metrics batch_eval_metrics"
    ),
    "`hf-biasensemble predict` labels images": "do_predict",
    "--checkpoint_choice decides which step is published": (
        "load_best_model_at_end metric_for_best_model greater_is_better"
    ),
    "a checkpoint contains everything that exact resuming needs": "save_only_model ignore_data_skip",
    "a checkpoint is saved on SIGTERM anyway": "enable_jit_checkpoint",
    "one process writes all files": "save_on_each_node",
    "a finished run is pushed once, to main": "hub_strategy hub_always_push hub_revision",
    "--seed sets the order of the training images too": "data_seed",
    "images have no lengths; they come in random order or one after another": (
        "train_sampling_strategy length_column_name"
    ),
    "the dataset yields whole batches": "remove_unused_columns",
    "--label_column and --bias_label_column name the columns of labels": "label_names",
    "batches are split so that any number of processes trains the same model": "accelerator_config",
    "a method may change what it computes, as DisEnt does when it starts to swap": "ddp_static_graph",
    "every process must hold the whole network; for one too large for that, freeze the backbone "
    "(--freeze_backbone true)": ("parallelism_config fsdp fsdp_config deepspeed"),
}

UNSUPPORTED = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Options that are refused, with the reason."""

_AS_DEFAULT: dict[str, tuple[Any, ...]] = {
    "accelerator_config": (AcceleratorConfig(),),
    "activation_checkpointing": (False,),
    "debug": (None, []),
    "gradient_checkpointing": (False,),
    "include_for_metrics": ([],),
    "include_num_input_tokens_seen": (False,),
    "label_names": ([],),
    "train_sampling_strategy": ("sequential",),  # the trainer refuses it for a method with its own order
}
"""Values accepted besides the default: those `TrainingArguments` turns it into, and others that work."""


def check_supported(args: Any) -> None:
    """Refuses options that would be ignored, also by the learning rate schedule. Works before and after
    `TrainingArguments.__post_init__`."""
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    for name, reason in UNSUPPORTED.items():
        value = getattr(args, name)
        if value not in (defaults[name], *_AS_DEFAULT.get(name, ())):
            raise BiasEnsembleError(f"--{name} {value} is not supported: {reason}; leave it out")
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    by_steps = kind not in ("reduce_lr_on_plateau", "greedy")
    require(by_steps, "--lr_scheduler_type", "one that depends on steps and not on a metric", kind)
    if args.step_decay_steps:
        require(kind == "constant", "--lr_scheduler_type", "constant with --step_decay_steps", kind)
    if args.warmup_steps:
        expected = "one with warmup, such as constant_with_warmup, for --warmup_steps"
        require(kind != "constant", "--lr_scheduler_type", expected, kind)
    if args.lr_scheduler_kwargs:
        takes_them = kind not in ("constant", "constant_with_warmup")
        require(takes_them, "--lr_scheduler_type", "one that takes --lr_scheduler_kwargs", kind)


def check_reporting(services: list[str]) -> None:
    """Refuses a reporting service that is unknown or whose package is not installed."""
    known = sorted(INTEGRATION_TO_CALLBACK)
    installed = (*get_available_reporting_integrations(), "flyte", "kubeflow")  # not listed by transformers
    for name in services:
        require(name in known, "--report_to", f"none, all, or any of {', '.join(known)}", name)
        require(name in installed, f"--report_to {name}", "its package", "none; install it or leave the option out")


def take_over_launcher(args: Any) -> None:
    """Copies precision and compilation settings of `accelerate launch` into the arguments, unless they are set, so
    that `config.yaml` contains them; refuses unsupported ones."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    require(precision in ("no", "bf16", "fp16"), "accelerate launch --mixed_precision", "no, bf16 or fp16", precision)
    if precision != "no" and not (args.bf16 or args.fp16):
        setattr(args, precision, True)
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no" and not args.torch_compile:
        args.torch_compile, args.torch_compile_backend = True, backend
        args.torch_compile_mode = os.environ.get("ACCELERATE_DYNAMO_MODE", args.torch_compile_mode)
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        asked = os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true", "yes")
        require(not asked, "accelerate launch", "processes that each hold the whole network", name.lower())
