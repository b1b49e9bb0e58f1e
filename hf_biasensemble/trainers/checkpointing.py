"""Checkpoints that are complete or not to be seen, with all that a method must remember between steps."""

import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer

from hf_biasensemble.folders.checkpoints import UNFINISHED, one_line_if_not_written, publish, remove_older
from hf_biasensemble.internal.tensors import separate

METHOD_STATE_FILE = "sample_losses.safetensors"


class SavedPart(Protocol):
    """What writes itself into the folder of a checkpoint, and reads itself from there."""

    def save(self, folder: str | Path) -> None: ...

    def load(self, folder: str | Path) -> None: ...


class CheckpointingTrainer(Trainer):
    """Writes each checkpoint aside and puts it in its place once it is complete, whatever kills the process."""

    _checkpoints_go_to: str | None = None

    def method_state(self) -> dict[str, torch.Tensor]:
        """Tensors that a checkpoint must hold beside model, optimiser and random state."""
        return {}

    def load_method_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`~CheckpointingTrainer.method_state`] gave."""

    def further_state(self) -> list[SavedPart]:
        """What else writes itself into a checkpoint."""
        return []

    def check_finite(self) -> None:
        """Raises `BiasEnsembleError` if a loss since the last log is not finite; nothing is saved then."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_finite()
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        aside = final.parent / UNFINISHED
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._checkpoints_go_to = str(aside)
        try:
            with one_line_if_not_written(f"checkpoint {final}"):
                super()._save_checkpoint(model, trial)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            self._checkpoints_go_to = None
        self.accelerator.wait_for_everyone()  # each process writes its random state
        if self.args.should_save:
            publish(aside / final.name, final)
            remove_older(final, self.args.save_total_limit)
            shutil.rmtree(aside)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoints_go_to or super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, separate(self.model.state_dict() if state_dict is None else state_dict))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.method_state()
        if not self.args.should_save:
            return
        if state:
            save_file(state, Path(output_dir) / METHOD_STATE_FILE)
        for part in self.further_state():
            part.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if self.method_state():
            self.load_method_state(load_file(Path(checkpoint) / METHOD_STATE_FILE))
        for part in self.further_state():
            part.load(checkpoint)
