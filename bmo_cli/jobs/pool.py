"""Some jobs at a time, each in a worker: jobs of a sweep, and cells of a table."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

from bmo_cli.errors import Interrupted
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.jobs.worker import Worker

Key = TypeVar("Key")

_SAVE_TIMEOUT = 100.0
"""seconds in which a job can be saved; hydra/launcher=slurm has Slurm kill it after 120"""


@dataclass(frozen=True)
class _Running(Generic[Key]):
    key: Key
    worker: Worker
    place: int


class JobPool(Generic[Key]):
    """Jobs of this process that run at the same time.

    Each has its share of the cores, or a GPU of its own where there are several. A request to stop
    this process reaches every job, and the pool waits until all are saved. A second Ctrl-C kills
    them. As a context, the pool listens to such requests between its calls as well.

    Args:
        size: jobs at a time.
        on_end: called with the key and the worker of every job that has ended; what it raises
            stops the other jobs.
        stop_with_parent: whether the end of this process's parent is a request to stop, as for a
            process of a launcher.
    """

    def __init__(
        self, size: int, on_end: Callable[[Key, Worker], None], *, stop_with_parent: bool = False
    ) -> None:
        self.size = size
        self._on_end, self._parent = on_end, os.getppid() if stop_with_parent else None
        self._running: list[_Running[Key]] = []
        self._stop, self._listens = StopRequest(), False
        atexit.register(self._stop_all)  # where Python would wait for the jobs that still run

    def __enter__(self) -> JobPool[Key]:
        self._stop.__enter__()
        self._listens = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listens = False
        self._stop.__exit__(kind, error, trace)

    def add(
        self, key: Key, function: Callable[..., Any], *arguments: Any, device: str = "cpu"
    ) -> None:
        """Start a job as soon as there is a place for it.

        Args:
            key: of the job, for `on_end`.
            function: of a module.
            arguments: plain data.
            device: as the configuration has it.

        Raises:
            NotStarted: the system does not allow another process.
            Interrupted: this process was asked to stop; every job that ran is saved.
        """
        with self._listening():
            self._wait_until_fewer_than(self.size)
            place = min(set(range(self.size)) - {job.place for job in self._running})
            worker = Worker(
                function,
                *arguments,
                threads=max(1, torch.get_num_threads() // self.size),
                environment=assign_device(device, place) if self.size > 1 else {},
            )
            self._running.append(_Running(key, worker, place))

    def finish(self) -> None:
        """Wait for all jobs.

        Raises:
            Interrupted: see `add`.
        """
        with self._listening():
            self._wait_until_fewer_than(1)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if self._listens:
            yield
            return
        with self:
            yield

    def _wait_until_fewer_than(self, count: int) -> None:
        try:
            while len(self._running) >= count and not self.stopping:
                self._collect_ended()
            if not self.stopping:
                return
            self._stop_all()
            while self._running:
                self._collect_ended()
        except KeyboardInterrupt:  # a second Ctrl-C
            for job in self._running:
                job.worker.kill()
            raise
        except BaseException:  # of `on_end`, or submitit puts this process's job into its queue
            self._stop_all()
            for job in self._running:
                job.worker.has_ended(timeout=_SAVE_TIMEOUT)
            raise
        raise Interrupted("stopped; what was in progress is saved", exit_code=self._stop.exit_code)

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        if self._parent not in (None, os.getppid()) and self._stop.signal is None:
            self._stop.signal = signal.SIGTERM
        return self._stop.signal is not None

    def _collect_ended(self) -> None:
        """Wait for a moment, then hand on the jobs that have ended."""
        wait([job.worker.channel for job in self._running], timeout=0.2)
        for job in [job for job in self._running if job.worker.has_ended()]:
            self._running.remove(job)
            self._on_end(job.key, job.worker)

    def _stop_all(self) -> None:
        for job in self._running:
            job.worker.stop()  # each is saved


def assign_device(device: str, place: int) -> dict[str, str]:
    """Environment in which a job sees one GPU alone, where there are several.

    Args:
        device: as the configuration has it; `cuda:N` is somebody's own choice.
        place: number of the job among those that run at the same time.
    """
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count < 2:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(i) for i in range(count)]
    return {"CUDA_VISIBLE_DEVICES": visible[place % count]}
