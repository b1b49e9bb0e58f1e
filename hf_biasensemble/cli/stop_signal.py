"""Handles SIGTERM and SIGINT during training: finishes the step, saves a checkpoint and exits."""

import signal
import threading
import time
from types import TracebackType
from typing import Any

import torch
from transformers import TrainerCallback

from hf_biasensemble.internal.collectives import largest, num_processes
from hf_biasensemble.internal.processes import print_once

STEPS_BETWEEN_AGREEMENTS = 8
"""Steps between collective checks for a signal, since each check waits for the device."""


class StopSignal(TrainerCallback):
    """Ends training and the process after the step in which any of the processes received a signal.

    A context manager that restores the previous signal handlers. A second signal, at least five seconds after the
    first, ends the process immediately.
    """

    def __init__(self) -> None:
        self.received = 0
        self._told = 0
        self._told_at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if num_processes() == 1:
            told = self._told
        elif state.global_step % STEPS_BETWEEN_AGREEMENTS == 0:
            told = int(largest(torch.tensor(self._told, device=args.device)))
        else:
            told = 0
        if told:
            self.received = told
            control.should_save = control.should_save or args.save_strategy != "no"
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a signal, exits with status 128 + its number."""
        self._restore()
        if self.received:
            saved = "no checkpoint saved (--save_strategy no)"
            if args.save_strategy != "no":
                saved = f"checkpoint saved in {args.output_dir}; resume with --resume_from_checkpoint true"
            name = signal.Signals(self.received).name
            print_once(f"stopped by {name} after step {state.global_step}: {saved}")
            raise SystemExit(128 + self.received)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        unheard = self._told if self._before and not self.received else 0
        self._before = {}
        if unheard:  # received after the last collective check
            signal.raise_signal(unheard)

    def _hear(self, number: int, frame: object) -> None:
        if self._told and time.monotonic() - self._told_at > 5:
            raise SystemExit(128 + number)
        if not self._told:
            self._told, self._told_at = number, time.monotonic()
