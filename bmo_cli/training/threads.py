"""Threads that share every batch on a processor.

The operations of a small network on a small batch last a millisecond or less, and threads that
share each of them wait for one another after each. Here every thread differentiates a part of the
batch of its own, and they meet twice a step: less time on quiet cores, and on a machine with other
work a step no longer waits hundreds of times for the slower core.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from bmo_cli.errors import InputError
from bmo_cli.solver.problem import Sample

Item = TypeVar("Item")
Output = TypeVar("Output")


class CpuThreads:
    """Runs a function on the parts of a batch, a thread each.

    Attributes:
        count: of parts; 1: nothing is divided.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def of(cls, sample: Sample) -> CpuThreads:
        """As many parts as batches like this one divide into and torch has threads."""
        if sample.initial[0].device.type != "cpu":
            return cls()
        count = math.gcd(len(sample.initial[0]), torch.get_num_threads())
        try:
            sample.equal_part(0, count)
        except InputError:  # of a task that does not say how
            return cls()
        return cls(count)

    def parts(self, sample: Sample) -> list[Sample]:
        """The parts of a batch."""
        if self.count == 1:
            return [sample]
        return [sample.equal_part(i, self.count) for i in range(self.count)]

    def run(self, function: Callable[[Item], Output], items: Iterable[Item]) -> list[Output]:
        """function(item) for every item."""
        if self.count == 1:
            return [function(item) for item in items]
        if self._pool is None:
            self._pool = self._start_pool()
        waiting = [self._pool.submit(function, item) for item in items]
        wait(waiting)  # for all of them, so that nothing still runs where one has failed
        return [one.result() for one in waiting]

    def _start_pool(self) -> ThreadPoolExecutor:
        """Threads with their share of torch's threads, which each thread has for itself."""
        whole = torch.get_num_threads()
        all_set = threading.Barrier(self.count + 1)

        def begin() -> None:
            torch.get_num_threads()  # the first call in a thread takes over the number of another
            torch.set_num_threads(max(1, whole // self.count))
            all_set.wait()

        pool = ThreadPoolExecutor(self.count, "bmo", begin)
        for _ in range(self.count):
            pool.submit(int)  # starts a thread
        all_set.wait()
        torch.set_num_threads(whole)  # of this thread, and of those to come
        return pool
