"""Everything a run can be told, and the strict parser of YAML file and command line.

Command line wins over the YAML file, which wins over the defaults here. A key that nobody knows is an error.
"""

import argparse
import dataclasses
import difflib
import json
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_biasensemble.errors import BiasEnsembleError
from hf_biasensemble.sizes import size_in_bytes

METHODS = ("erm", "lff", "disent", "lff_be", "disent_be")
CHECKPOINT_CHOICES = {
    "last": None,
    "validation_accuracy": "validation_accuracy",
    "validation_ac_score": "validation_ac_score",
    "oracle_test": "test_accuracy",
}
"""What may decide which step is published, and the metric whose highest value does; `None`: the last step."""


def option(default: Any, help: str) -> Any:
    """A dataclass field with its text for `--help`."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """Which data, and where in it."""

    dataset_name: str | None = option(None, "Hub id, folder (class folders, Parquet, saved DatasetDict) or table.")
    dataset_config_name: str | None = option(None, "Configuration of the data set, for instance a severity: 1pct.")
    image_column: str = option("image", "Column with the images.")
    label_column: str = option("label", "Column with the classes.")
    bias_label_column: str | None = option(None, "Column with the bias attribute; only measures, never trains.")
    conflicting_column: str | None = option(None, "Column that says whether a sample is bias-conflicting.")

    train_fingerprint: str | None = option(None, "Refuse other training data than with this fingerprint.")

    validation_share: float = option(0.1, "Share of train that becomes validation, if the data have none; 0: none.")
    test_share: float = option(0.1, "Share of train that becomes test, if the data have none; 0: none.")
    split_seed: int = option(0, "Seed of these cuts; the same for all runs that are to be compared.")
    skip_unreadable_images: bool = option(False, "Leave out images that cannot be read, and list them in output_dir.")
    pixel_memory_limit: str = option("4GB", "Decoded images of more bytes are kept in a cached file, not in memory.")

    def __post_init__(self) -> None:
        _require(bool(self.dataset_name), "--dataset_name", "a Hub id or a local folder", self.dataset_name)
        for name in ("validation_share", "test_share"):
            _require(0 <= getattr(self, name) < 1, f"--{name}", "in [0, 1)", getattr(self, name))
        both = self.validation_share + self.test_share
        _require(both < 1, "--validation_share and --test_share", "below 1 together", both)
        _require(self.split_seed >= 0, "--split_seed", "0 or more", self.split_seed)
        self.pixel_memory_bytes()

    def pixel_memory_bytes(self) -> int:
        """`pixel_memory_limit` as a number of bytes."""
        return size_in_bytes(str(self.pixel_memory_limit), "--pixel_memory_limit")


@dataclass
class ModelArguments:
    """Network and preprocessing."""

    backbone: str = option("mlp", "mlp, or the name of a timm model with pooled features.")
    backbone_args: str | None = option(None, "Further arguments of timm.create_model, as JSON.")
    pretrained: bool = option(False, "Start from timm's pretrained weights.")
    pretrained_weights: str | None = option(None, "Start from this file (safetensors or .pth) of the timm backbone.")
    image_size: int = option(28, "Height and width of the network input in pixels.")
    image_mean: list[float] = option([0.0, 0.0, 0.0], "Mean per channel, of pixels divided by 255 and image_scale.")
    image_std: list[float] = option([1.0, 1.0, 1.0], "Standard deviation per channel, of the same.")
    image_scale: float = option(1.0, "Pixels are divided by this besides 255.")
    crop_padding: int = option(0, "Training images are padded by this many pixels and cropped at random; 0: not.")
    horizontal_flip: bool = option(False, "Training images are mirrored at random.")

    def __post_init__(self) -> None:
        _require(self.image_size >= 1, "--image_size", "at least 1", self.image_size)
        _require(self.image_scale > 0, "--image_scale", "above 0", self.image_scale)
        _require(self.crop_padding >= 0, "--crop_padding", "0 or more", self.crop_padding)
        _require(len(self.image_mean) == 3, "--image_mean", "three numbers", self.image_mean)
        _require(
            len(self.image_std) == 3 and all(value > 0 for value in self.image_std),
            "--image_std",
            "three numbers above 0",
            self.image_std,
        )
        _require(self.backbone != "mlp" or not self.pretrained, "--pretrained", "a timm backbone", "the MLP")
        if self.pretrained_weights is not None:
            _require(self.backbone != "mlp", "--pretrained_weights", "a timm backbone", "the MLP")
            found = Path(self.pretrained_weights).expanduser().is_file()
            _require(found, "--pretrained_weights", "a file with weights", self.pretrained_weights)
        try:
            self.timm_arguments()
        except ValueError:
            _require(False, "--backbone_args", 'a JSON object such as {"zero_init_last": false}', self.backbone_args)

    def timm_arguments(self) -> dict[str, Any]:
        """`backbone_args` as a dict."""
        arguments = json.loads(self.backbone_args or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("expected a JSON object")
        return arguments


@dataclass
class SelectionArguments:
    """BiasEnsemble: the biased members and their votes."""

    num_members: int = option(5, "Biased members M.")
    member_steps: int = option(1000, "Optimisation steps of each member.")
    member_threshold: float = option(0.99, "A member votes for a sample whose true class it gives more than this.")
    member_agreement: int = option(3, "Votes that put a sample into the bias-amplified set.")
    keep_member: str = option("last", "Which state of a member votes: last, or best validation accuracy.")
    member_eval_steps: int = option(500, "With keep_member best: evaluated after 1, 1 + this, 1 + 2 * this ... steps.")
    share_batches: bool = option(False, "All members see the same batches; saves decoding, members differ less.")
    member_learning_rate: float | None = option(None, "Learning rate of the members; by default learning_rate.")
    member_image_scale: float | None = option(None, "image_scale of what the members see; by default image_scale.")
    selection_dir: str | None = option(
        None, "Folder to share a selection between runs: taken from there if made from the same, else put there."
    )

    def __post_init__(self) -> None:
        _require(self.num_members >= 1, "--num_members", "at least 1", self.num_members)
        _require(self.member_steps >= 1, "--member_steps", "at least 1", self.member_steps)
        _require(0 <= self.member_threshold < 1, "--member_threshold", "in [0, 1)", self.member_threshold)
        valid = 1 <= self.member_agreement <= self.num_members
        _require(valid, "--member_agreement", f"in 1..{self.num_members} (num_members)", self.member_agreement)
        _require(self.keep_member in ("last", "best"), "--keep_member", "last or best", self.keep_member)
        for name in ("member_learning_rate", "member_image_scale"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, f"--{name}", "above 0", value)
        _require(self.member_eval_steps >= 1, "--member_eval_steps", "at least 1", self.member_eval_steps)


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
        _require(self.method in METHODS, "--method", f"one of {', '.join(METHODS)}", self.method)
        _require(bool(self.output_dir), "--output_dir", "a folder for the results", self.output_dir)
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            _require(getattr(self, name) >= 1, f"--{name}", "at least 1", getattr(self, name))
        for name in ("eval_steps", "save_steps", "logging_steps"):
            _require((getattr(self, name) or 0) > 0, f"--{name}", "above 0", getattr(self, name))
        _require(0 < self.learning_rate < math.inf, "--learning_rate", "above 0", self.learning_rate)
        _require(self.weight_decay >= 0, "--weight_decay", "0 or more", self.weight_decay)
        _require(self.seed >= 0, "--seed", "0 or more", self.seed)
        _require(self.max_steps >= 1, "--max_steps", "at least 1", self.max_steps)
        _require(0 <= self.loss_average_decay < 1, "--loss_average_decay", "in [0, 1)", self.loss_average_decay)
        q = self.generalized_cross_entropy_q
        _require(0 < q <= 1, "--generalized_cross_entropy_q", "in (0, 1]", q)
        _require(self.augmentation in ("none", "affine"), "--augmentation", "none or affine", self.augmentation)
        for name in ("weight_average", "conflicting_share"):
            _require(0 <= getattr(self, name) < 1, f"--{name}", "in [0, 1)", getattr(self, name))
        for name in ("lambda_dis", "lambda_swap", "lambda_swap_bias"):
            _require(getattr(self, name) >= 0, f"--{name}", "0 or more", getattr(self, name))
        for name in ("swap_start_step", "step_decay_steps", "step_decay_start"):
            steps = getattr(self, name)
            valid = 0 <= steps < 1 or (math.isfinite(steps) and steps == int(steps) > 0)
            _require(valid, f"--{name}", "a whole number of steps, or a share of max_steps in [0, 1)", steps)
        _require(not self.remove_unused_columns, "--remove_unused_columns", "false", self.remove_unused_columns)
        _require(not self.load_best_model_at_end, "--load_best_model_at_end", "false: the last step counts", True)
        _require(self.save_strategy != "best", "--save_strategy", "no, steps or epoch", self.save_strategy)
        choices = ("last", "oracle_test") if self.published_protocol else tuple(CHECKPOINT_CHOICES)
        protocol = " (--published_protocol)" if self.published_protocol else ""
        expected = f"one of {', '.join(choices)}{protocol}"
        _require(self.checkpoint_choice in choices, "--checkpoint_choice", expected, self.checkpoint_choice)
        if self.published_protocol:
            self.checkpoint_choice = "oracle_test"
        with_selection = f"a method with BiasEnsemble ({', '.join(name for name in METHODS if name.endswith('_be'))})"
        _require(self.uses_selection or not self.audit, "--audit", with_selection, self.method)
        _require(self.hub_revision is None, "--hub_revision", "nothing: pushes go to main", self.hub_revision)
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
    """The selection's settings as `published_protocol` has them, if that is on."""
    if args.published_protocol:
        return dataclasses.replace(selection_args, keep_member="best", member_eval_steps=500)
    return selection_args


def parse_arguments(
    argument_types: list[type], argv: list[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Fills the dataclasses from `--config FILE.yaml` and the command line.

    Raises:
        `BiasEnsembleError`: If a key is unknown (names the nearest known one and the file), a value does not fit its
            type, or the file cannot be read.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _StrictParser(argument_types, allow_abbrev=False, description=description)
    parser.add_argument("--config", help="YAML file with any of the options below.")
    parser.known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    config_only = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_only.add_argument("--config")
    config, _ = config_only.parse_known_args(argv)
    from_file: list[str] = _read_yaml(config.config, parser) if config.config else []
    try:
        *parsed, _ = parser.parse_args_into_dataclasses([*from_file, *argv], look_for_args_file=False)
    except BiasEnsembleError:
        raise
    except ValueError as error:  # what TrainingArguments itself refuses
        raise BiasEnsembleError(" ".join(str(error).split())) from error
    return tuple(parsed)


class _StrictParser(HfArgumentParser):
    """Errors as `BiasEnsembleError`, with the nearest known option."""

    known: set[str] = set()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # argparse would take -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        raise BiasEnsembleError(re.sub(r"^argument (--\w+)[^:]*", r"\1", message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(unknown_key(rest[0].split("=")[0], self.known, "the command line"))
        return parsed, rest


def unknown_key(key: str, known: set[str], where: str) -> str:
    """Message for a key that no option has."""
    near = difflib.get_close_matches(key.lstrip("-"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see --help for all options"
    return f"unknown option {key} in {where}; {hint}"


def _read_yaml(file: str, parser: _StrictParser) -> list[str]:
    """The file's content as command line words, which the parser then checks like any other."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BiasEnsembleError(f"--config {file} could not be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BiasEnsembleError(f"--config {file}: expected lines `option: value`, found {type(content).__name__}")
    words: list[str] = []
    actions = {option.lstrip("-"): action for action in parser._actions for option in action.option_strings}
    known = parser.known - {"h", "help", "config"}
    for key, value in content.items():
        if str(key) not in known:
            raise BiasEnsembleError(unknown_key(str(key), known, file))
        action = actions[str(key)]
        if value is None and action.default is None:
            continue
        if value is None or value == [] or (isinstance(value, list) and action.nargs != "+"):
            expected = "one or more values" if action.nargs == "+" else "one value"
            found = "nothing" if value in (None, []) else value
            raise BiasEnsembleError(f"{file}: {key}: expected {expected}, found {found}; leave it out for the default")
        if isinstance(value, dict):
            value = json.dumps(value)
        values = [str(item) for item in (value if isinstance(value, list) else [value])]
        try:
            parser.parse_known_args([f"--{key}", *values])
        except BiasEnsembleError as error:
            raise BiasEnsembleError(f"{file}: {error}") from error
        words += [f"--{key}", *values]
    return words


def _require(holds: bool, option: str, expected: str, found: Any) -> None:
    if not holds:
        raise BiasEnsembleError(f"{option}: expected {expected}, found {found}")


def resolved(*arguments: Any) -> dict[str, Any]:
    """All settings as plain values, for `config.yaml`: what differs from the defaults, and what a run should state."""
    settings: dict[str, Any] = {}
    stated = {*DebiasingArguments.__annotations__, "seed"}
    for part in arguments:
        if not isinstance(part, TrainingArguments):
            settings |= dataclasses.asdict(part)
            continue
        defaults = {f.name: f.default for f in dataclasses.fields(part)}
        for name, value in part.to_dict().items():
            if name in stated or (name in _PORTABLE and value != defaults[name]):
                settings[name] = value
        settings["report_to"] = settings["report_to"] or ["none"]
    return settings


_PORTABLE = {
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "fp16",
    "gradient_accumulation_steps",
    "lr_scheduler_kwargs",
    "num_train_epochs",
    "output_dir",
    "data_seed",
    "torch_compile",
    "use_cpu",
    "warmup_steps",
    "weight_decay",
}
