"""Batches prepared ahead of their use, by threads.

Decoding and NumPy release the interpreter's lock, so that threads prepare batches while the step
computes. Threads need no shared memory, and their errors are the errors of the program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

_AHEAD = 2
"""Items a worker that are prepared or in preparation, as torch's DataLoader has it."""


def prefetch(make: Callable[[int], Item], steps: range, workers: int) -> Iterator[Item]:
    """make(step) for every step, in order.

    Args:
        make: a function of its argument alone, which threads may call at the same time.
        steps: its arguments.
        workers: threads that prepare items ahead; 0: every item is made when it is asked for.

    Raises:
        Exception: what `make` raised, when its item is asked for.
    """
    if workers == 0:
        yield from map(make, steps)
        return
    pool = ThreadPoolExecutor(workers, "bmo-data")
    try:
        rest = iter(steps)
        waiting: deque[Future[Item]] = deque()
        while True:
            waiting += [
                pool.submit(make, step) for step in islice(rest, _AHEAD * workers - len(waiting))
            ]
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:  # at the end, after an error, or when nobody asks any more
        pool.shutdown(wait=False, cancel_futures=True)
