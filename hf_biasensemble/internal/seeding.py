"""Independent random streams from one seed."""

import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


def derived_seed(seed: int, purpose: str, number: int = 0) -> int:
    """An independent seed for each purpose and number."""
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number]).generate_state(1)[0])


def build_with_seed(seed: int, build: Callable[[], T]) -> T:
    """Calls `build` with torch's CPU generator seeded, and restores its state. Leaves GPU generators alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds all devices
        return build()
