"""One-line errors for mistakes on the command line, with a suggestion for an unknown option."""

import argparse
import difflib
import re
from typing import NoReturn

from hf_biasensemble.internal.errors import BiasEnsembleError

_USUAL_NAMES = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs num_epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size train_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "batch_size": "eval_batch_size per_device_eval_batch_size",
    "backbone": "model_name_or_path model_name model arch",
    "model": "model_name_or_path model_name models checkpoint",
    "dataset_name": "data_dir data_path dataset root_dir",
    "reference_dataset": "dataset",
    "dataset_config_name": "dataset_config severity",
    "dataset_config_names": "dataset_config severity",
    "weight_decay": "wd",
    "output_dir": "output out_dir save_dir",
    "output_file": "output",
    "resume_from_checkpoint": "resume",
    "method": "algorithm",
    "compare_with": "baseline",
    "reference_checkpoint": "checkpoint_dir",
    "hub_model_id": "repo_id",
    "hub_dataset_id": "push_to_hub repo_id",
    "num_images": "top_k",
    "use_cpu": "device no_cuda",
}
"""For each option, its former names and its names in other scripts, whose values may differ."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that raises a `BiasEnsembleError` for each mistake."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.match("unrecognized arguments: ([^ =]+)", message):
            raise BiasEnsembleError(self.unknown_option(unknown[1], "the command line"))
        message = re.sub(r"^argument (--\w+)[^:]*", r"\1", message)
        raise BiasEnsembleError(message if message.startswith("--") else f"{message}; see {self.prog} --help")

    def unknown_option(self, name: str, where: str) -> str:
        """The error for an unknown option, with the option of that usual name, or else the closest match."""
        strings = [[text for text in action.option_strings if text.startswith("--")] for action in self._actions]
        known = [names[0].lstrip("-") for names in strings if names]
        typed = name.lstrip("-")
        meant = [option for option, names in _USUAL_NAMES.items() if option in known and typed in names.split()]
        near = " or ".join(meant or difflib.get_close_matches(typed, known, n=1))
        return f"unknown option {name} in {where}; {f'did you mean {near}?' if near else 'see --help for all options'}"
