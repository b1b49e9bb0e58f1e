"""The member stage: five members in one run against five runs, steps and votes together."""

from collections.abc import Iterator

import torch

from benchmarks.measuring import Figure, Options, seconds
from benchmarks.trainers import Setting, random_split, trainer
from hf_biasensemble.trainers.bias_ensemble import BiasEnsembleTrainer

MEMBERS = 5


def figures(options: Options) -> Iterator[Figure]:
    """One figure in seconds for 100 steps."""
    torch.manual_seed(0)
    setting, steps = Setting(), options.few(100)
    split = random_split(options.few(55_000, 600))

    def stage(num_members: int, share_batches: bool = False) -> None:
        with trainer("members", split, setting, steps, num_members, share_batches) as built:
            assert isinstance(built, BiasEnsembleTrainer)
            built.train()
            built.select()

    contenders = {
        "five runs of one": lambda: sum(seconds(lambda: stage(1)) for _ in range(MEMBERS)),
        "one run of five": lambda: seconds(lambda: stage(MEMBERS)),
        "one run of five, shared batches": lambda: seconds(lambda: stage(MEMBERS, share_batches=True)),
    }
    yield Figure(f"{MEMBERS} members, {steps} steps and votes", "s", contenders, "five runs of one")
