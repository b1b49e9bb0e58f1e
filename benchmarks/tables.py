"""The table of sample losses: an update and the weights of a batch of 256, for tables of several sizes.

Measured in a row, where small tables stay in the processor's cache, and between matrix multiplications like those of a
training step, which evict them.
"""

import statistics
from collections.abc import Callable, Iterator

import torch

from benchmarks.bare import LossTables
from benchmarks.measuring import Figure, Options, seconds
from hf_biasensemble.losses.objectives import relative_difficulty
from hf_biasensemble.losses.sample_losses import SampleLosses

BATCH = 256
SIZES = {
    "10,000 samples, 10 classes": (10_000, 10),
    "100,000 samples, 10 classes": (100_000, 10),
    "1 million samples, 10 classes": (1_000_000, 10),
    "10 million samples, 10 classes": (10_000_000, 10),
    "1 million samples, 1,000 classes": (1_000_000, 1_000),
    "1 million samples, 10,000 classes": (1_000_000, 10_000),
}


def figures(options: Options) -> Iterator[Figure]:
    """Figures in a row, inside a step, and against scanning the whole table."""
    torch.manual_seed(0)
    sizes = dict(list(SIZES.items())[:2]) if options.quick else SIZES
    tables = {name: SampleLosses(torch.randint(classes, (size,)), classes) for name, (size, classes) in sizes.items()}
    reference = next(iter(sizes))
    images, weights = torch.rand(BATCH, 2352), [torch.rand(2352, 100) for _ in range(4)]

    def arithmetic() -> None:
        for weight in weights:
            images.T @ (images @ weight)

    def table_work(table: SampleLosses) -> Callable[[], None]:
        index, losses = torch.randint(len(table.labels), (BATCH,)), torch.rand(BATCH, 2)

        def work() -> None:
            table.update(index, losses)
            biased, debiased = table.scaled(index).unbind(dim=1)
            relative_difficulty(biased, debiased)

        return work

    for name, between in (("in a row", lambda: None), ("inside a step", arithmetic)):
        contenders: dict[str, Callable] = {
            size: lambda table=table, between=between: _microseconds(lambda: table_work(table), between, options)
            for size, table in tables.items()
        }
        yield Figure(f"update and weights, {name}", "us", contenders, reference)

    for samples in (55_000, 1_000_000):
        labels = torch.randint(10, (options.few(samples, 1000),))
        table = SampleLosses(labels, 10)
        contenders = {
            "looking through all": _looking_through_all(labels, arithmetic, options),
            "library": lambda table=table: _microseconds(lambda: table_work(table), arithmetic, options),
        }
        yield Figure(f"update and weights, {samples:,} samples", "us", contenders, "looking through all")


def _looking_through_all(labels: torch.Tensor, between: Callable[[], None], options: Options) -> Callable[[], float]:
    whole = LossTables(labels)

    def work() -> Callable[[], object]:
        index, losses = torch.randint(len(labels), (BATCH,)), torch.rand(2, BATCH)
        return lambda: whole.weights(index, labels[index], losses)

    return lambda: _microseconds(work, between, options)


def _microseconds(prepare: Callable[[], Callable[[], object]], between: Callable[[], None], options: Options) -> float:
    """Median over many different batches."""
    times = []
    for _ in range(options.few(200)):
        work = prepare()
        between()
        times.append(1e6 * seconds(work))
    return statistics.median(times)
