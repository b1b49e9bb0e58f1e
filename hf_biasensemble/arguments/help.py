"""The options that `--help` shows, and their layout."""

import argparse

COMMON = frozenset(
    """dataset_name dataset_config_name image_column label_column bias_label_column
    backbone pretrained freeze_backbone num_members member_steps member_threshold audit
    method output_dir overwrite_output_dir max_steps num_train_epochs per_device_train_batch_size learning_rate
    augmentation compare_with seed resume_from_checkpoint push_to_hub batch_size use_cpu bf16""".split()
)
"""Shared options that `--help` shows; `--help-all` shows all."""

OUR_WORDS = {
    "output_dir": "Folder for the results.",
    "bf16": "Train in mixed precision, bfloat16.",
    "push_to_hub": "Upload the finished run to the Hub.",
    "seed": "Seed of weights, image order and augmentation.",
    "use_cpu": "Use the CPU even if there are other devices.",
    "resume_from_checkpoint": "true: resume from the last checkpoint in output_dir; or the folder of a checkpoint.",
}
"""Help that replaces that of transformers."""

ALIASES = {
    "dataset_name": ["--train_dir", "--train-dir"],
    "image_column": ["--image_column_name", "--image-column-name"],
    "label_column": ["--label_column_name", "--label-column-name"],
    "validation_share": ["--train_val_split", "--train-val-split"],
}
"""Names of the same options in Hugging Face's `run_image_classification.py`."""


class OptionHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Lists each option once, with a short placeholder for its value and its default, if any."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text  # which would join all paragraphs
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.strip().split("\n\n"))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return ", ".join(action.option_strings) or super()._format_action_invocation(action)
        return f"{action.option_strings[0]} {_word_for(action)}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, argparse.SUPPRESS) and action.nargs != 0
        return super()._get_help_string(action) if has_default else action.help


def _word_for(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    if isinstance(action.default, bool) or action.nargs == "?":
        return "true|false"
    if action.choices and len(list(action.choices)) <= 6:
        return "|".join(map(str, action.choices))
    named = {int: "INT", float: "FLOAT"}
    many = " ..." if action.nargs in ("+", "*") else ""
    return named.get(action.type, "TEXT") + many  # type: ignore[call-overload]
