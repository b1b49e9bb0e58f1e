"""Training options shared by all methods."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from transformers import TrainingArguments

from hf_biasensemble.arguments.options import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    Allowed,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Steps,
    check_options,
    one_of,
    option,
)
from hf_biasensemble.arguments.unsupported import check_reporting, check_supported, take_over_launcher
from hf_biasensemble.internal.collectives import is_alone
from hf_biasensemble.internal.errors import require

DEFAULT_STEPS = 50_000
PIXELS_ON = ("host", "device")
CHECKPOINT_CHOICES = {
    "last": None,
    "validation_accuracy": "validation_accuracy",
    "validation_ac_score": "validation_ac_score",
    "estimated": "validation_estimated_unbiased_probability",
    "oracle_test": "test_accuracy",
}
"""Ways to choose the published step, with the metric that is maximised; `None`: the last step."""

_OF_TRANSFORMERS = {"gradient_accumulation_steps": AT_LEAST_1, "weight_decay": NOT_NEGATIVE, "seed": NOT_NEGATIVE}


@dataclass
class DebiasingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the options that all methods share.

    Some defaults differ from `TrainingArguments`, to follow the published algorithm: no gradient clipping, a constant
    learning rate, the incomplete last batch dropped, evaluation every 500 steps, no reporting.
    """

    _argument_group_name: ClassVar[str] = "training"

    method: str = option("lff_be", "The method; `--help --method NAME` shows its options.")
    method_file: str | None = option(None, "Python file that defines your own method; see docs/add_a_method.md.")
    selector: str | None = option(
        None, "Selector to use; by default the method's own. `--help --selector NAME` shows its options."
    )
    selector_file: str | None = option(None, "Python file that defines your own selector; see docs/add_a_method.md.")
    step_decay_steps: Steps = option(
        0, "Multiply the learning rate by step_decay_factor every N steps; below 1: a fraction of max_steps; 0: never."
    )
    step_decay_factor: float = option(0.1, "Factor of step_decay_steps.")
    step_decay_start: Steps = option(0, "Step from which step_decay_steps counts; below 1: a fraction of max_steps.")
    augmentation: Annotated[str, one_of("none", "affine", "photographs")] = option(
        "none",
        "none; affine: rotate, zoom and shift training images at random, after crop and flip; photographs: random "
        "resized crops of at least 0.4 of the area, flipped at random. Members see plain images or, with "
        "features of a pretrained backbone, the same stored views.",
    )
    color_jitter: Annotated[float, Allowed("in [0, 1]", lambda value: 0 <= value <= 1)] = option(
        0.0,
        "With augmentation photographs: vary brightness, contrast and saturation by up to this fraction, such as "
        "0.4. Weakens colour as a shortcut, but also where it defines the class; 0: off.",
    )
    weight_average: Fraction = option(
        0.0, "Publish an exponential moving average of the weights with this decay, such as 0.999; 0: off."
    )
    checkpoint_choice: str = option(
        "last",
        f"Step to publish, one of {', '.join(CHECKPOINT_CHOICES)}; validation_ac_score needs bias labels, "
        "oracle_test uses the test split, estimated needs neither (docs/judging.md).",
    )
    judge: str | None = option(
        None,
        "Folder of a run with BiasEnsemble, or of its selection, whose members identify the validation images that "
        "contradict the shortcut; by default the run's own members.",
    )
    published_protocol: bool = option(
        False,
        "Follow the protocol of the published results: members kept at the better of 1 and 501 updates, "
        "checkpoint_choice oracle_test. Use it only to compare with those figures.",
    )
    compare_with: str | None = option(
        None, "Folder of a finished run on the same data, such as ERM, to compare with in the model card."
    )
    overwrite_output_dir: bool = option(False, "Remove an earlier run from output_dir first.")
    license: str | None = option(None, "Licence of the weights for the model card, as the Hub names it: mit, ...")

    per_device_train_batch_size: PositiveInt = option(256, "Training batch size per process.")
    per_device_eval_batch_size: PositiveInt = option(512, "Evaluation batch size per process.")
    learning_rate: PositiveFloat = option(1e-3, "Learning rate of Adam.")
    backbone_learning_rate: PositiveFloat | None = option(
        None, "Learning rate of the backbones, including the members'; by default learning_rate."
    )
    max_steps: int = option(-1, f"Training steps; -1: as many as num_train_epochs takes, else {DEFAULT_STEPS:,}.")
    num_train_epochs: NonNegativeFloat = option(0, "Epochs to train, instead of max_steps; 0: use max_steps.")
    schedule_steps: PositiveInt | None = option(
        None,
        "Length of learning rate schedules, and base of options that are fractions of max_steps; by default "
        "max_steps, or the value of the resumed run.",
    )
    max_grad_norm: float = option(0.0, "Largest gradient norm; 0: no clipping.")
    lr_scheduler_type: str = option("constant", "Learning rate schedule.")
    dataloader_drop_last: bool = option(True, "Drop an incomplete last batch.")
    dataloader_pin_memory: bool = option(False, "Pin the memory of batches loaded by worker processes.")
    pixels_on: Annotated[str, one_of(*PIXELS_ON)] = option(
        "host", "Where decoded images are kept: host, or device (all of them on each GPU, if they fit)."
    )
    eval_strategy: str = option("steps", "When to evaluate: no, steps or epoch.")
    eval_steps: PositiveFloat = option(500, "Steps between evaluations.")
    save_strategy: Annotated[str, one_of("no", "steps", "epoch")] = option(
        "steps", "When to save checkpoints: no, steps or epoch."
    )
    save_steps: PositiveFloat = option(5000, "Steps between checkpoints.")
    save_total_limit: int | None = option(2, "Checkpoints to keep.")
    logging_steps: PositiveFloat = option(100, "Steps between logged losses.")
    logging_nan_inf_filter: bool = option(False, "Has no effect: a loss that is not finite ends the run.")
    report_to: list[str] = option(["none"], "Services to report to: none, tensorboard, wandb, trackio, ...")
    remove_unused_columns: bool = option(False, "Must stay false: the dataset yields whole batches.")

    def __post_init__(self) -> None:
        require(bool(self.output_dir), "--output_dir", "a folder for the results", self.output_dir)
        check_options(self)
        for name, allowed in _OF_TRANSFORMERS.items():
            require(allowed.holds(getattr(self, name)), f"--{name}", allowed.words, getattr(self, name))
        self._check_steps()
        gathered_here = self.pixels_on == "host" or not self.dataloader_num_workers
        require(gathered_here, "--pixels_on", "host with --dataloader_num_workers", self.pixels_on)
        jitters = not self.color_jitter or self.augmentation == "photographs"
        require(jitters, "--color_jitter", "--augmentation photographs with it", self.augmentation)
        choices = ("last", "oracle_test") if self.published_protocol else tuple(CHECKPOINT_CHOICES)
        protocol = " (--published_protocol)" if self.published_protocol else ""
        expected = f"one of {', '.join(choices)}{protocol}"
        require(self.checkpoint_choice in choices, "--checkpoint_choice", expected, self.checkpoint_choice)
        if self.published_protocol:
            self.checkpoint_choice = "oracle_test"
        take_over_launcher(self)
        check_supported(self)
        super().__post_init__()
        if is_alone():
            self.distributed_state: Any = None  # TrainingArguments then counts one process
        check_reporting(self.report_to)
        self.label_names: list[str] = []

    def _check_steps(self) -> None:
        """Checks epochs against steps, which stay -1 with epochs until the number of images is known."""
        epochs, steps = self.num_train_epochs, self.max_steps
        require(steps == -1 or steps >= 1, "--max_steps", "at least 1", steps)
        if epochs:
            require(steps == -1, "--num_train_epochs", "it or --max_steps", f"both ({epochs:g} and {steps})")
        elif steps == -1:
            self.max_steps = DEFAULT_STEPS

    def settled_members(self, selection_args: Any) -> Any:
        """The selector's settings, adapted to the method; refuses those that do not fit it."""
        return selection_args

    def in_steps(self, name: str) -> int:
        """An option in steps; values below 1 are fractions of `schedule_steps`."""
        value = getattr(self, name)
        return int(value) if value >= 1 else round(value * (self.schedule_steps or self.max_steps))
