"""Options of training that all methods have."""

import dataclasses
import math
from dataclasses import dataclass

from transformers import TrainingArguments

from hf_biasensemble.arguments.options import option, require
from hf_biasensemble.arguments.selection import SelectionArguments

METHODS = ("erm", "lff", "disent", "lff_be", "disent_be")
CHECKPOINT_CHOICES = {
    "last": None,
    "validation_accuracy": "validation_accuracy",
    "validation_ac_score": "validation_ac_score",
    "oracle_test": "test_accuracy",
}
"""What may decide which step is published, and the metric whose highest value does; `None`: the last step."""


@dataclass
class DebiasingArguments(TrainingArguments):
    """`transformers.TrainingArguments` and what the methods add.

    Defaults that differ from `TrainingArguments`, so that a run is the published algorithm unless told otherwise: no
    gradient clipping, constant learning rate, incomplete last batch dropped, evaluation every 500 steps, no report
    integrations.
    """

    method: str = option("lff_be", f"One of {', '.join(METHODS)}.")
    loss_average_decay: float = option(0.7, "Decay of the per-sample moving averages of the losses.")
    generalized_cross_entropy_q: float = option(0.7, "Exponent of the generalized cross entropy.")
    lambda_dis: float = option(1.0, "DisEnt: factor of the bias head's loss.")
    lambda_swap: float = option(1.0, "DisEnt: factor of both losses on swapped features.")
    lambda_swap_bias: float = option(1.0, "DisEnt: further factor of the bias head's loss on swapped features.")
    swap_start_step: float = option(
        0.2, "DisEnt: bias features are swapped after this many steps; below 1: share of max_steps."
    )
    step_decay_steps: float = option(
        0, "Multiply the learning rate by step_decay_factor every so many steps; below 1: share of max_steps; 0: not."
    )
    step_decay_factor: float = option(0.1, "What step_decay_steps multiplies by.")
    step_decay_start: float = option(
        0, "Steps before those of step_decay_steps are counted; below 1: share of max_steps."
    )
    augmentation: str = option(
        "none",
        "none, or affine: training images are turned, zoomed and shifted at random, after crop and flip; not for the "
        "members.",
    )
    weight_average: float = option(
        0.0, "Publish a moving average of the weights with this decay, for instance 0.999; 0: the weights themselves."
    )
    conflicting_share: float = option(
        0.0,
        "With BiasEnsemble: draw this share of each batch from outside the bias-amplified set, and weigh the losses "
        "so that their mean stays what it was; other methods draw uniformly.",
    )
    checkpoint_choice: str = option(
        "last",
        f"Which step is published, one of {', '.join(CHECKPOINT_CHOICES)}; validation_ac_score needs bias labels, "
        "oracle_test looks at the test split.",
    )
    published_protocol: bool = option(
        False,
        "The choices behind published figures: members kept at the better of 1 and 501 updates, checkpoint_choice "
        "oracle_test. For comparison with such figures only.",
    )
    compare_with: str | None = option(
        None, "Folder of a finished run on the same data, such as ERM, whose accuracy the model card shows beside."
    )
    overwrite_output_dir: bool = option(False, "Remove an earlier run in output_dir first.")
    audit: bool = option(False, "With BiasEnsemble: at the end, also a page that shows the suspected images.")

    per_device_train_batch_size: int = option(256, "Training batch size per process.")
    per_device_eval_batch_size: int = option(512, "Evaluation batch size per process.")
    learning_rate: float = option(1e-3, "Learning rate of Adam.")
    max_steps: int = option(50_000, "Optimisation steps.")
    max_grad_norm: float = option(0.0, "Clip the gradient norm; 0: not.")
    lr_scheduler_type: str = option("constant", "Learning rate schedule.")
    dataloader_drop_last: bool = option(True, "Drop an incomplete last batch.")
    dataloader_pin_memory: bool = option(False, "Pin host memory.")
    eval_strategy: str = option("steps", "When to evaluate: no, steps or epoch.")
    eval_steps: float = option(500, "Steps between evaluations.")
    save_strategy: str = option("steps", "When to save checkpoints: no, steps or epoch.")
    save_steps: float = option(5000, "Steps between checkpoints.")
    save_total_limit: int | None = option(2, "Checkpoints to keep.")
    logging_steps: float = option(100, "Steps between logged losses.")
    logging_nan_inf_filter: bool = option(False, "Hide losses that are not finite (here they end the run instead).")
    report_to: list[str] = option(["none"], "Where to report to: none, tensorboard, ...")
    remove_unused_columns: bool = option(False, "Must stay off: the data set yields whole batches.")

    def __post_init__(self) -> None:
        require(self.method in METHODS, "--method", f"one of {', '.join(METHODS)}", self.method)
        require(bool(self.output_dir), "--output_dir", "a folder for the results", self.output_dir)
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            require(getattr(self, name) >= 1, f"--{name}", "at least 1", getattr(self, name))
        for name in ("eval_steps", "save_steps", "logging_steps"):
            require((getattr(self, name) or 0) > 0, f"--{name}", "above 0", getattr(self, name))
        require(0 < self.learning_rate < math.inf, "--learning_rate", "above 0", self.learning_rate)
        require(self.weight_decay >= 0, "--weight_decay", "0 or more", self.weight_decay)
        require(self.seed >= 0, "--seed", "0 or more", self.seed)
        require(self.max_steps >= 1, "--max_steps", "at least 1", self.max_steps)
        require(0 <= self.loss_average_decay < 1, "--loss_average_decay", "in [0, 1)", self.loss_average_decay)
        q = self.generalized_cross_entropy_q
        require(0 < q <= 1, "--generalized_cross_entropy_q", "in (0, 1]", q)
        require(self.augmentation in ("none", "affine"), "--augmentation", "none or affine", self.augmentation)
        for name in ("weight_average", "conflicting_share"):
            require(0 <= getattr(self, name) < 1, f"--{name}", "in [0, 1)", getattr(self, name))
        for name in ("lambda_dis", "lambda_swap", "lambda_swap_bias"):
            require(getattr(self, name) >= 0, f"--{name}", "0 or more", getattr(self, name))
        for name in ("swap_start_step", "step_decay_steps", "step_decay_start"):
            steps = getattr(self, name)
            valid = 0 <= steps < 1 or (math.isfinite(steps) and steps == int(steps) > 0)
            require(valid, f"--{name}", "a whole number of steps, or a share of max_steps in [0, 1)", steps)
        require(not self.remove_unused_columns, "--remove_unused_columns", "false", self.remove_unused_columns)
        require(not self.load_best_model_at_end, "--load_best_model_at_end", "false: the last step counts", True)
        require(self.save_strategy != "best", "--save_strategy", "no, steps or epoch", self.save_strategy)
        choices = ("last", "oracle_test") if self.published_protocol else tuple(CHECKPOINT_CHOICES)
        protocol = " (--published_protocol)" if self.published_protocol else ""
        expected = f"one of {', '.join(choices)}{protocol}"
        require(self.checkpoint_choice in choices, "--checkpoint_choice", expected, self.checkpoint_choice)
        if self.published_protocol:
            self.checkpoint_choice = "oracle_test"
        with_selection = f"a method with BiasEnsemble ({', '.join(name for name in METHODS if name.endswith('_be'))})"
        require(self.uses_selection or not self.audit, "--audit", with_selection, self.method)
        require(self.hub_revision is None, "--hub_revision", "nothing: pushes go to main", self.hub_revision)
        super().__post_init__()
        self.label_names: list[str] = []

    def in_steps(self, name: str) -> int:
        """The number of steps that an option means, which may be a share of `max_steps`."""
        value = getattr(self, name)
        return int(value) if value >= 1 else round(value * self.max_steps)

    @property
    def uses_selection(self) -> bool:
        """Whether the method needs the bias-amplified set."""
        return self.method.endswith("_be")


def with_protocol(selection_args: SelectionArguments, args: DebiasingArguments) -> SelectionArguments:
    """The selection's settings as `published_protocol` has them, if that is on; members must be evaluated twice."""
    if args.published_protocol:
        selection_args = dataclasses.replace(selection_args, keep_member="best", member_eval_steps=500)
    if args.uses_selection:
        selection_args.check_evaluations()
    return selection_args
