"""Threads that share every batch on a CPU.

An operation of a small network on a small batch takes a millisecond or less. Threads that share
every operation synchronise after each. Here every thread differentiates its own part of the batch,
and the threads synchronise twice a step. That is faster on idle cores, and on a busy machine a step
no longer waits for the slowest core hundreds of times.
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
    """Runs a function on the parts of a batch, with a thread for each part.

    Attributes:
        count: number of parts; 1: batches are not divided.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def of(cls, sample: Sample) -> CpuThreads:
        """Threads for such batches: greatest common divisor of batch size and torch's threads."""
        if sample.initial[0].device.type != "cpu":
            return cls()
        count = math.gcd(len(sample.initial[0]), torch.get_num_threads())
        try:
            sample.equal_part(0, count)
        except InputError:  # the problems of the task cannot be divided
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
        wait(waiting)  # for all, so that no thread still runs if another has failed
        return [future.result() for future in waiting]

    def _start_pool(self) -> ThreadPoolExecutor:
        """Start the threads, each with its share of torch's threads."""
        whole = torch.get_num_threads()
        all_set = threading.Barrier(self.count + 1)

        def begin() -> None:
            torch.get_num_threads()  # the first call takes over the number of another thread
            torch.set_num_threads(max(1, whole // self.count))
            all_set.wait()

        pool = ThreadPoolExecutor(self.count, "bmo", begin)
        for _ in range(self.count):
            pool.submit(int)  # starts a thread
        all_set.wait()
        torch.set_num_threads(whole)  # for this thread and for later threads
        return pool
