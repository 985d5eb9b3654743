"""Processes that share every batch: each differentiates its part, and all take the same step.

The gradient of the mean over a batch is the mean of the gradients over its equal parts. A run on
several devices therefore equals the run on one device, up to rounding.
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
    """A process group of one process.

    Attributes:
        index: of this process. The first process writes, validates and has the clock.
        count: number of processes.
    """

    index = 0
    count = 1

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes."""
        return self.index == 0

    def select_part(self, sample: Sample) -> Sample:
        """The part of a batch that this process differentiates."""
        return sample

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its mean over the processes."""

    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over the processes."""
        return list(values)

    def maximum(self, value: float) -> float:
        """The maximum over the processes."""
        return value

    def gather_flags(self, flags: Sequence[str]) -> tuple[str, ...]:
        """The flags of all processes, each once."""
        return tuple(flags)

    def broadcast_from_first(self, value: Callable[[], float]) -> float:
        """The value that the first process computes, on all processes."""
        return value()


SINGLE_PROCESS = ProcessGroup()


class DistributedGroup(ProcessGroup):
    """Several processes, joined by the process group of `torch.distributed`, which must exist."""

    def __init__(self, device: torch.device) -> None:
        self.index, self.count = dist.get_rank(), dist.get_world_size()
        self._device = device if device.type == "cuda" else torch.device("cpu")

    def select_part(self, sample: Sample) -> Sample:
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

    def maximum(self, value: float) -> float:
        maximum = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.all_reduce(maximum, dist.ReduceOp.MAX)
        return maximum.item()

    def gather_flags(self, flags: Sequence[str]) -> tuple[str, ...]:
        gathered: list[Any] = [None] * self.count
        dist.all_gather_object(gathered, list(flags))
        return tuple(dict.fromkeys(flag for own in gathered for flag in own))

    def broadcast_from_first(self, value: Callable[[], float]) -> float:
        shared = torch.zeros((), dtype=torch.float64, device=self._device)
        if self.first:
            shared.fill_(value())
        dist.broadcast(shared, 0)
        return shared.item()


def clock(process_group: ProcessGroup) -> float:
    """Seconds on the clock of the first process."""
    return process_group.broadcast_from_first(time.monotonic)
