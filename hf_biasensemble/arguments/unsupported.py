"""Options of `transformers.TrainingArguments` that would do nothing here, or something else than they say."""

from typing import Any

from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from hf_biasensemble.arguments.options import require
from hf_biasensemble.internal.errors import BiasEnsembleError

_ADAM = "the optimiser is Adam, with --learning_rate, --weight_decay, --adam_beta1, --adam_beta2 and --adam_epsilon"
_EVALUATION = "evaluation has no data loader: it counts right answers of whole splits"
_CHOICE = "--checkpoint_choice says which step is published"
_MEMORY = "networks are not made for it; lower --per_device_train_batch_size, raise --gradient_accumulation_steps"
_LANGUAGE = "it is for language models"
_ORDER = "images have no lengths, and come in random order or one after another"
_PROCESSES = "only processes that hold the whole network are supported; see docs/scaling.md"
_SHARES = "how processes share batches is fixed, so that any number of them gives the same training"
_RESUME = "a checkpoint holds all that exact resuming needs"
_PUSH = "a finished run is pushed once, to main"

UNSUPPORTED = {
    "optim": _ADAM,
    "optim_args": _ADAM,
    "optim_target_modules": _ADAM,
    "label_smoothing_factor": "losses of single samples say what is bias-aligned, and are those of the paper",
    "average_tokens_across_devices": _LANGUAGE,
    "include_num_input_tokens_seen": _LANGUAGE,
    "use_cache": _LANGUAGE,
    "use_liger_kernel": _LANGUAGE,
    "liger_kernel_config": _LANGUAGE,
    "neftune_noise_alpha": _LANGUAGE,
    "bf16_full_eval": "evaluation has the precision of training; see --bf16",
    "fp16_full_eval": "evaluation has the precision of training; see --fp16",
    "activation_checkpointing": _MEMORY,
    "activation_checkpointing_kwargs": _MEMORY,
    "gradient_checkpointing": _MEMORY,
    "gradient_checkpointing_kwargs": _MEMORY,
    "auto_find_batch_size": "results depend on the batch size; set --per_device_train_batch_size",
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "debug": "a loss that is not finite ends the run and names its step",
    "skip_memory_metrics": "results hold no memory metrics",
    "prediction_loss_only": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "do_predict": "`hf-biasensemble predict` labels images",
    "load_best_model_at_end": _CHOICE,
    "metric_for_best_model": _CHOICE,
    "greater_is_better": _CHOICE,
    "save_only_model": _RESUME,
    "ignore_data_skip": _RESUME,
    "enable_jit_checkpoint": "a checkpoint is saved on SIGTERM anyway",
    "save_on_each_node": "one process writes the run",
    "hub_strategy": _PUSH,
    "hub_always_push": _PUSH,
    "hub_revision": _PUSH,
    "data_seed": "--seed decides the order of the training images as well",
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "remove_unused_columns": "the dataset yields whole batches",
    "label_names": "evaluation knows the columns of labels: --label_column, --bias_label_column",
    "accelerator_config": _SHARES,
    "ddp_static_graph": "a method may change what it computes, as DisEnt does once it swaps",
    "parallelism_config": _PROCESSES,
    "fsdp": _PROCESSES,
    "fsdp_config": _PROCESSES,
    "deepspeed": _PROCESSES,
}
"""Why each of them is refused."""

_AS_DEFAULT: dict[str, tuple[Any, ...]] = {
    "accelerator_config": (AcceleratorConfig(),),
    "activation_checkpointing": (False,),
    "debug": (None, []),
    "gradient_checkpointing": (False,),
    "include_for_metrics": ([],),
    "include_num_input_tokens_seen": (False,),
    "label_names": ([],),
    "train_sampling_strategy": ("sequential",),  # the trainer refuses it where the method has an order of its own
}
"""What is as good as the default: what the parser and `TrainingArguments` make of it, and what works as well."""

_BY_METRIC = ("reduce_lr_on_plateau", "greedy")
_WITHOUT_WARMUP = ("constant",)
_WITHOUT_KWARGS = ("constant", "constant_with_warmup")


def check_supported(args: Any, defaults: dict[str, Any]) -> None:
    """Refuses what is set but would be ignored.

    Args:
        args (`DebiasingArguments`): The settings, before or after `TrainingArguments` has completed them.
        defaults (`dict[str, Any]`): The default of each field.

    Raises:
        `BiasEnsembleError`: Names the first such option, and says why.
    """
    for name, reason in UNSUPPORTED.items():
        value = getattr(args, name)
        if value not in (defaults[name], *_AS_DEFAULT.get(name, ())):
            raise BiasEnsembleError(f"--{name} {value} is not supported: {reason}; leave it out")
    _check_schedule(args)


def _check_schedule(args: Any) -> None:
    """Refuses a learning rate schedule that is not supported, or ignores another option."""
    kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    require(kind not in _BY_METRIC, "--lr_scheduler_type", "one that follows steps and no metric", kind)
    if args.step_decay_steps:
        require(kind == "constant", "--lr_scheduler_type", "constant with --step_decay_steps", kind)
    if args.warmup_steps:
        expected = "one with a warmup, such as constant_with_warmup, with --warmup_steps"
        require(kind not in _WITHOUT_WARMUP, "--lr_scheduler_type", expected, kind)
    if args.lr_scheduler_kwargs:
        expected = "one with options with --lr_scheduler_kwargs"
        require(kind not in _WITHOUT_KWARGS, "--lr_scheduler_type", expected, kind)


def check_reporting(services: list[str]) -> None:
    """Refuses a service for logs that nobody knows."""
    known = sorted(INTEGRATION_TO_CALLBACK)
    for name in services:
        require(name in known, "--report_to", f"none, all or some of {', '.join(known)}", name)


def check_reporting_installed(services: list[str]) -> None:
    """Refuses a service for logs whose package is not installed here."""
    for name in services:
        if name not in (*get_available_reporting_integrations(), *_NOT_LISTED):
            raise BiasEnsembleError(
                f"--report_to {name}: expected its package, found none; install it, or leave the option out"
            )


_NOT_LISTED = ("flyte", "kubeflow")  # transformers does not say whether these are installed
