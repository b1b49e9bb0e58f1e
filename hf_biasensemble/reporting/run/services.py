"""Additions to the Trainer's callbacks for Weights & Biases and Trackio."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from hf_biasensemble.arguments import DebiasingArguments


class SettingsCallback(TrainerCallback):
    """Adds the settings of data, network and selection to the run's configuration, which has only the training
    arguments."""

    def __init__(self, settings: Mapping[str, Any]):
        self.settings = settings

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        for name in ("wandb", "trackio"):
            if name in args.report_to:
                config = importlib.import_module(name).config
                config.update({key: value for key, value in self.settings.items() if key not in config})


@contextmanager
def run_of_its_own(args: DebiasingArguments) -> Iterator[None]:
    """Ends a Weights & Biases run that started in this block, so that the next training starts its own instead of
    logging to the same names and steps. Trackio runs end with their training."""
    if "wandb" not in args.report_to or not args.should_save:
        yield
        return
    wandb = importlib.import_module("wandb")
    before = wandb.run
    yield
    if before is None:
        wandb.finish()
