"""Processes that share every batch: each differentiates its part, and all take the same step.

The gradient of the mean over a batch is the mean of those over its equal parts, so that a run on
several devices follows the run on one, up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bmo_cli.solver.problem import Sample


class ProcessGroup:
    """One process alone.

    Attributes:
        index: of this process; the first one writes, validates and tells the time.
        count: of processes.
    """

    index = 0
    count = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.index == 0

    def part(self, sample: Sample) -> Sample:
        """What this process differentiates of a batch."""
        return sample

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its mean over the processes."""

    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over the processes."""
        return list(values)

    def largest(self, value: float) -> float:
        """The largest value of all processes."""
        return value

    def all_of(self, flags: Sequence[str]) -> tuple[str, ...]:
        """What any process remarks, each once."""
        return tuple(flags)

    def from_first(self, value: Callable[[], float]) -> float:
        """What the first process computes."""
        return value()


SINGLE_PROCESS = ProcessGroup()


class DistributedGroup(ProcessGroup):
    """Several processes, joined by `torch.distributed`; its process group exists."""

    def __init__(self, device: torch.device) -> None:
        self.index, self.count = dist.get_rank(), dist.get_world_size()
        self._device = device if device.type == "cuda" else torch.device("cpu")

    def part(self, sample: Sample) -> Sample:
        return sample.equal_part(self.index, self.count)

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        together = torch.cat([g.flatten() for g in gradients])  # one message a step
        dist.all_reduce(together)
        together /= self.count
        parts = torch.split(together, [g.numel() for g in gradients])
        for g, mean in zip(gradients, parts, strict=True):
            g.copy_(mean.view_as(g))

    def mean(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return [value / self.count for value in total.tolist()]

    def largest(self, value: float) -> float:
        found = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.item()

    def all_of(self, flags: Sequence[str]) -> tuple[str, ...]:
        gathered: list[Any] = [None] * self.count
        dist.all_gather_object(gathered, list(flags))
        return tuple(dict.fromkeys(flag for found in gathered for flag in found))

    def from_first(self, value: Callable[[], float]) -> float:
        found = torch.zeros((), dtype=torch.float64, device=self._device)
        if self.first:
            found.fill_(value())
        dist.broadcast(found, 0)
        return found.item()


def clock(process_group: ProcessGroup) -> float:
    """Seconds on the clock of the first process."""
    return process_group.from_first(time.monotonic)
