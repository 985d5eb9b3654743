"""Measure whether bfloat16 is fast on this processor.

On a processor without instructions for bfloat16 a step takes up to ten times as long as in float32,
without a warning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SLOW = 2.0
"""Largest time of bfloat16, as a multiple of float32, with which bfloat16 is used."""
_REPEATS = 6


def bfloat16_slowdown() -> float:
    """Time of a small convolution, forward and backward, in bfloat16 as a multiple of float32.

    It is measured on one thread, as the best of a few, which reduces the effect of other work.
    """
    with _one_thread(), torch.random.fork_rng([]):
        layer, x = nn.Conv2d(32, 32, 3, padding=1), torch.randn(2, 32, 40, 40)
        taken: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(_REPEATS):
            for lowered, seconds in taken.items():
                started = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
                    layer(x).float().square().sum().backward()
                seconds.append(time.perf_counter() - started)
    return min(taken[True]) / min(taken[False])


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
