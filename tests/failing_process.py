"""The train command, in which the second process fails in the middle of the training."""

import dataclasses
import sys

from hf_biasensemble.cli.main import run_command
from hf_biasensemble.methods import METHODS
from hf_biasensemble.methods.lff import LffTrainer


class FailingLffTrainer(LffTrainer):
    def training_terms(self, model, batch):
        if self.args.process_index == 1 and self.state.global_step == 8:
            raise MemoryError("the second process has had enough")
        return super().training_terms(model, batch)


if __name__ == "__main__":
    METHODS._found["lff"] = dataclasses.replace(METHODS["lff"], trainer=FailingLffTrainer)
    sys.exit(run_command("train"))
